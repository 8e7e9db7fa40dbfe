// The process that compiles and computes for Espresso's double: started at the first compile, one for a host process, asked by one thread at a time.
//
// A request is u32 kind, u64 bytes, and its payload; an answer u32 outcome, u64 bytes, and its payload; integers little-endian.
// 1 compile: settings, path, custom compiler options, each NUL-terminated. Answer: u32 number, then lines of text.
// 2 execute: u32 number, u32 aliases, u32 output and u32 input of each, then the bytes of all inputs. Answer: the bytes of all outputs.
// 3 release: u32 number. No answer.

#include "double.h"
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#ifdef __APPLE__
#include <crt_externs.h>
#define environ (*_NSGetEnviron())
#define MSG_NOSIGNAL 0
#else
extern char **environ;
#endif

enum { CHILD_FD = 3, ANSWER_SECONDS = 600 };

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static int channel = -1;
static pid_t child;
static char *lost; // why there is no simulator any more

static char *start(void) {
  const char *command = getenv("ESPRESSO_DOUBLE_SIMULATOR");
  if (command == NULL || *command == 0) return format_text("ESPRESSO_DOUBLE_SIMULATOR is not set");
  char *copy = strdup(command), *rest = copy, *argv[32];
  int argc = 0;
  for (char *word; (word = strsep(&rest, "\n")) != NULL;)
    if (*word != 0 && argc < 31) argv[argc++] = word;
  argv[argc] = NULL;

  // Far above the descriptor that the child gets, and closed in everything else that the host starts.
  int pair[2];
  if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair) != 0) return format_text("socketpair: %s", strerror(errno));
  int here = fcntl(pair[0], F_DUPFD_CLOEXEC, 16), there = fcntl(pair[1], F_DUPFD_CLOEXEC, 16);
  close(pair[0]);
  close(pair[1]);
  struct timeval patience = {.tv_sec = ANSWER_SECONDS};
  setsockopt(here, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
#ifdef __APPLE__
  setsockopt(here, SOL_SOCKET, SO_NOSIGPIPE, &(int){1}, sizeof(int));
#endif

  const char *log = getenv("ESPRESSO_DOUBLE_LOG");
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, there, CHILD_FD);
  posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_addopen(&actions, 1, "/dev/null", O_WRONLY, 0);
  // Not the host's: its owner may redirect that around the compile which happens to start this process.
  posix_spawn_file_actions_addopen(&actions, 2, log == NULL ? "/dev/null" : log, O_WRONLY | O_CREAT | O_APPEND, 0666);
  posix_spawnattr_t attributes;
  posix_spawnattr_init(&attributes);
  sigset_t none, all;
  sigemptyset(&none);
  sigfillset(&all);
  posix_spawnattr_setsigmask(&attributes, &none);
  posix_spawnattr_setsigdefault(&attributes, &all);
  posix_spawnattr_setpgroup(&attributes, 0); // Ctrl-C is the host's affair; this process ends with its channel
  posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETPGROUP);

  size_t count = 0;
  while (environ[count] != NULL) count++;
  char **variables = calloc(count + 1, sizeof *variables);
  if (variables == NULL) abort();
  for (size_t i = 0, kept = 0; i < count; i++)
    if (strncmp(environ[i], "ESPRESSO_DOUBLE", 15) != 0 && strncmp(environ[i], "NODE_OPTIONS=", 13) != 0) variables[kept++] = environ[i];
  int failure = argc == 0 ? ENOENT : posix_spawnp(&child, argv[0], &actions, &attributes, argv, variables);
  free(variables);
  posix_spawn_file_actions_destroy(&actions);
  posix_spawnattr_destroy(&attributes);
  free(copy);
  close(there);
  if (failure != 0) {
    close(here);
    return format_text("cannot start the simulator: %s", strerror(failure));
  }
  channel = here;
  return NULL;
}

static bool transfer(bool out, void *data, uint64_t bytes) {
  char *at = data;
  while (bytes > 0) {
    size_t part = bytes > 1 << 20 ? 1 << 20 : (size_t)bytes;
    ssize_t moved = out ? send(channel, at, part, MSG_NOSIGNAL) : recv(channel, at, part, 0);
    if (moved < 0 && errno == EINTR) continue;
    if (moved <= 0) return false;
    at += moved;
    bytes -= (uint64_t)moved;
  }
  return true;
}

static void give_up(void) {
  int status = 0;
  kill(child, SIGKILL); // dead already, or silent for too long
  while (waitpid(child, &status, 0) < 0 && errno == EINTR) {}
  close(channel);
  channel = -1;
  lost = WIFEXITED(status) ? format_text("the simulator ended with status %d", WEXITSTATUS(status))
                           : format_text("the simulator was killed by signal %d", WTERMSIG(status));
}

// Sends the parts and reads the answer into *answer, NUL-terminated.
static Outcome ask(uint32_t kind, const Bytes *parts, size_t count, char **answer, uint64_t *answer_bytes) {
  *answer = NULL;
  *answer_bytes = 0;
  if (lost == NULL && channel < 0) lost = start();
  if (lost != NULL) {
    *answer = format_text("%s; ESPRESSO_DOUBLE_LOG=FILE keeps what it says", lost);
    return LOST;
  }
  unsigned char head[12];
  uint64_t bytes = 0;
  for (size_t i = 0; i < count; i++) bytes += parts[i].bytes;
  memcpy(head, &kind, 4);
  memcpy(head + 4, &bytes, 8);
  bool moved = transfer(true, head, sizeof head);
  for (size_t i = 0; moved && i < count; i++) moved = transfer(true, (void *)(uintptr_t)parts[i].data, parts[i].bytes);
  if (kind == 3 && moved) return ANSWERED;
  uint32_t outcome = LOST;
  if (moved && transfer(false, head, sizeof head)) {
    memcpy(&outcome, head, 4);
    memcpy(answer_bytes, head + 4, 8);
    *answer = malloc(*answer_bytes + 1);
    if (*answer == NULL) abort();
    (*answer)[*answer_bytes] = 0;
    moved = transfer(false, *answer, *answer_bytes);
  } else {
    moved = false;
  }
  if (moved) return (Outcome)outcome;
  free(*answer);
  give_up();
  *answer = strdup(lost);
  return LOST;
}

Outcome simulator_compile(const char *path, const char *custom, uint32_t *number, char **text) {
  pthread_mutex_lock(&mutex);
  Bytes parts[] = {{settings.text, strlen(settings.text) + 1}, {path, strlen(path) + 1}, {custom, strlen(custom) + 1}};
  uint64_t bytes;
  Outcome outcome = ask(1, parts, 3, text, &bytes);
  if (outcome == ANSWERED) {
    memcpy(number, *text, 4);
    memmove(*text, *text + 4, bytes - 4 + 1);
  }
  pthread_mutex_unlock(&mutex);
  return outcome;
}

Outcome simulator_execute(uint32_t number, const Bytes *inputs, uint32_t input_count, const Alias *aliases,
                          uint32_t alias_count, char **outputs, uint64_t expected, char **text) {
  Bytes *parts = calloc(input_count + 3u, sizeof *parts);
  if (parts == NULL) abort();
  parts[0] = (Bytes){&number, 4};
  parts[1] = (Bytes){&alias_count, 4};
  parts[2] = (Bytes){aliases, alias_count * sizeof *aliases};
  memcpy(parts + 3, inputs, input_count * sizeof *inputs);
  *outputs = *text = NULL;
  char *answer;
  uint64_t bytes;
  pthread_mutex_lock(&mutex);
  Outcome outcome = ask(2, parts, input_count + 3u, &answer, &bytes);
  pthread_mutex_unlock(&mutex);
  free(parts);
  if (outcome != ANSWERED) *text = answer;
  else if (bytes == expected) *outputs = answer;
  else {
    free(answer);
    *text = format_text("the simulator gave %llu bytes, expected %llu", (unsigned long long)bytes, (unsigned long long)expected);
    return LOST;
  }
  return outcome;
}

void simulator_release(uint32_t number) {
  pthread_mutex_lock(&mutex);
  if (channel >= 0) {
    char *answer;
    uint64_t bytes;
    Bytes part = {&number, 4};
    ask(3, &part, 1, &answer, &bytes);
    free(answer);
  }
  pthread_mutex_unlock(&mutex);
}

pid_t simulator_process(void) { return channel < 0 ? 0 : child; }

void simulator_stop(void) {
  if (channel >= 0) close(channel); // the child reads its end and goes; the system collects it with the host
}
