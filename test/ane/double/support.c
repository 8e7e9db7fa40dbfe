// Settings, objects, calls in progress, autorelease pools and the report of Espresso's double.

#include "double.h"
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

Settings settings;
Counts counts;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;         // state of all objects
static pthread_mutex_t calls_lock = PTHREAD_MUTEX_INITIALIZER;   // the list of calls
static pthread_mutex_t report_lock = PTHREAD_MUTEX_INITIALIZER;  // violations and pools; taken last
static pid_t owner;                                              // process that loaded the library

// ---------------------------------------------------------------------------------------------------------- threads

static _Thread_local uint64_t thread_number;
static uint64_t threads_seen;

uint64_t this_thread(void) {
  if (thread_number == 0) thread_number = __atomic_add_fetch(&threads_seen, 1, __ATOMIC_RELAXED);
  return thread_number;
}

void sleep_ms(long ms) {
  struct timespec rest = {ms / 1000, (ms % 1000) * 1000000L};
  while (nanosleep(&rest, &rest) != 0 && errno == EINTR) {}
}

void hang(void) {
  for (;;) sleep_ms(1000000);
}

// Uses 1 MiB of the caller's stack, as a compiler or a driver may: from the top, so that a guard page is met first.
__attribute__((noinline)) void touch_stack(void) {
  volatile char block[1 << 20];
  for (size_t at = sizeof block; at >= 1024; at -= 1024) block[at - 1] = 1;
}

char *format_text(const char *format, ...) {
  va_list list;
  va_start(list, format);
  char *text = NULL;
  if (vasprintf(&text, format, list) < 0) abort();
  va_end(list);
  return text;
}

// ----------------------------------------------------------------------------------------------------------- report

typedef struct Line {
  struct Line *next;
  char text[];
} Line;
static Line *first_line, **last_line = &first_line;

static void append_to_file(const char *text) {
  const char *file = getenv("ESPRESSO_DOUBLE_REPORT");
  if (file == NULL || *file == 0) return;
  int fd = open(file, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0666);
  if (fd < 0) return;
  char *line = format_text("%ld %s\n", (long)getpid(), text);
  if (write(fd, line, strlen(line)) < 0) {} // nobody to tell
  free(line);
  close(fd);
}

// Written to the file at once: a process that is killed has told what it did.
static void record(const char *text) {
  char flat[2048];
  snprintf(flat, sizeof flat, "%s", text);
  for (char *at = flat; *at != 0; at++)
    if (*at == '\n') *at = ' ';
  Line *line = malloc(sizeof *line + strlen(flat) + 1);
  if (line == NULL) abort();
  line->next = NULL;
  strcpy(line->text, flat);
  pthread_mutex_lock(&report_lock);
  *last_line = line;
  last_line = &line->next;
  counts.violations++;
  append_to_file(flat);
  pthread_mutex_unlock(&report_lock);
}

void violation(const char *format, ...) {
  char text[2048];
  va_list list;
  va_start(list, format);
  vsnprintf(text, sizeof text, format, list);
  va_end(list);
  char *line = format_text("violation: %s", text);
  record(line);
  free(line);
}

static char last_message[2048];

static void write_message(const char *text) {
  pthread_mutex_lock(&report_lock);
  snprintf(last_message, sizeof last_message, "%s", text);
  pthread_mutex_unlock(&report_lock);
  char *line = format_text("E5RT encountered an STL exception. msg = %s.\n", text);
  if (write(2, line, strlen(line)) < 0) {} // nobody to tell
  free(line);
}

void say(const char *format, ...) {
  char text[2048];
  va_list list;
  va_start(list, format);
  vsnprintf(text, sizeof text, format, list);
  va_end(list);
  write_message(text);
}

static void broken(const Call *call, const char *format, va_list list, bool message) {
  char text[1536];
  vsnprintf(text, sizeof text, format, list);
  violation("%s: %s (thread %llu)", call->name, text, (unsigned long long)this_thread());
  if (message) write_message(text);
}

int64_t refuse(const Call *call, const char *format, ...) {
  va_list list;
  va_start(list, format);
  broken(call, format, list, true);
  va_end(list);
  return MISUSED;
}

int64_t crash(const Call *call, const char *format, ...) {
  va_list list;
  va_start(list, format);
  broken(call, format, list, true);
  va_end(list);
  if (settings.aborts) abort();
  return MISUSED;
}

void note(const Call *call, const char *format, ...) {
  va_list list;
  va_start(list, format);
  broken(call, format, list, false);
  va_end(list);
}

// ------------------------------------------------------------------------------------------------------------ pools

typedef struct Pool {
  uint64_t thread;


  struct Pool *below; // on the same thread
  struct Pool *next;  // all pools
} Pool;
static Pool *pools;
static _Thread_local Pool *top_pool;
static pthread_key_t thread_end;

// Never freed, so a token is never seen twice; a program that runs for days would reuse them, a test does not.
API void *objc_autoreleasePoolPush(void) {
  Pool *pool = calloc(1, sizeof *pool);
  if (pool == NULL) abort();
  pool->thread = this_thread();
  pthread_mutex_lock(&report_lock);
  pool->below = top_pool;
  pool->next = pools;
  pools = pool;
  pthread_mutex_unlock(&report_lock);
  top_pool = pool;
  pthread_setspecific(thread_end, pool);
  return pool;
}

static void forget(Pool *pool) {
  pthread_mutex_lock(&report_lock);
  for (Pool **at = &pools; *at != NULL; at = &(*at)->next)
    if (*at == pool) {
      *at = pool->next;
      break;
    }
  pthread_mutex_unlock(&report_lock);
}

// libobjc aborts on a token that is not a pool of this thread ("Invalid or prematurely-freed autorelease pool").
API void objc_autoreleasePoolPop(void *token) {
  Call call = {.name = "objc_autoreleasePoolPop"};
  pthread_mutex_lock(&report_lock);
  Pool *found = NULL;
  for (Pool *at = pools; at != NULL; at = at->next)
    if (at == token) found = at;
  pthread_mutex_unlock(&report_lock);
  if (found == NULL) {
    crash(&call, "Invalid or prematurely-freed autorelease pool %p", token);
    return;
  }
  if (found->thread != this_thread()) {
    crash(&call, "autorelease pool %p belongs to thread %llu", token, (unsigned long long)found->thread);
    return;
  }
  if (found != top_pool) note(&call, "autorelease pool %p is popped before the pools that were pushed after it", token);
  while (top_pool != NULL) {
    Pool *pool = top_pool;
    top_pool = pool->below;
    forget(pool);
    bool last = pool == found;
    memset(pool, 0xdb, sizeof *pool);
    if (last) break;
  }
  pthread_setspecific(thread_end, top_pool);
}

static void thread_ended(void *pool) {
  for (Pool *at = pool; at != NULL; at = at->below) {
    violation("objc_autoreleasePoolPush: thread %llu ended with a pool that was not popped", (unsigned long long)at->thread);
    forget(at);
  }
}

// ---------------------------------------------------------------------------------------------------------- objects

static const char *const kind_names[KINDS] = {
    "compiler config options", "compiler", "compiler options", "program library", "program function",
    "operation create options", "stream operation", "io port", "buffer object", "execution stream", "async event"};

static Handle *handles;       // live ones
static Handle *buried_handles; // kept, so that no address is used twice
static Handle **table; // open addressing by address
static size_t table_size, table_used;
static uint64_t serials;

Handle *all_handles(void) { return handles; }

static size_t slot_of(const void *object) { return (size_t)(((uintptr_t)object >> 4) * 0x9e3779b97f4a7c15ull >> 20); }

static void insert(Handle *handle) {
  size_t at = slot_of(handle) & (table_size - 1);
  while (table[at] != NULL) at = (at + 1) & (table_size - 1);
  table[at] = handle;
}

Handle *known(const void *object) {
  if (table_size == 0) return NULL;
  for (size_t at = slot_of(object) & (table_size - 1); table[at] != NULL; at = (at + 1) & (table_size - 1))
    if (table[at] == object) return table[at];
  return NULL;
}

void *make(const Call *call, Kind kind, size_t size, const char *detail) {
  Handle *handle = calloc(1, size);
  if (handle == NULL) abort();
  if (2 * ++table_used > table_size) {
    free(table);
    table_size = table_size == 0 ? 1024 : 2 * table_size;
    table = calloc(table_size, sizeof *table);
    if (table == NULL) abort();
    for (Handle *each = handles; each != NULL; each = each->next) insert(each);
    for (Handle *each = buried_handles; each != NULL; each = each->next) insert(each);
  }
  insert(handle);
  handle->kind = kind;
  handle->live = true;
  handle->serial = ++serials;
  handle->thread = this_thread();
  handle->next = handles;
  handles = handle;
  snprintf(handle->made, sizeof handle->made, "%s #%llu \"%.100s\" made by %s on thread %llu", kind_names[kind],
           (unsigned long long)handle->serial, detail == NULL ? "" : detail, call->name,
           (unsigned long long)handle->thread);
  counts.live_handles++;
  return handle;
}

void bury(Handle *handle) {
  handle->live = false;
  counts.live_handles--;
  for (Handle **at = &handles; *at != NULL; at = &(*at)->next)
    if (*at == handle) {
      *at = handle->next;
      break;
    }
  handle->next = buried_handles;
  buried_handles = handle;
}

void *get(const Call *call, const void *object, Kind kind, const char *argument) {
  if (object == NULL) {
    crash(call, "%s is nullptr", argument);
    return NULL;
  }
  Handle *handle = known(object);
  if (handle == NULL) {
    crash(call, "%s: %p is no object of this library", argument, object);
    return NULL;
  }
  if (!handle->live) {
    crash(call, "%s: used after its release: %s", argument, handle->made);
    return NULL;
  }
  if (handle->kind != kind) {
    crash(call, "%s: expected a %s, got: %s", argument, kind_names[kind], handle->made);
    return NULL;
  }
  if (settings.strict_threads && handle->thread != this_thread()) note(call, "%s: used on another thread: %s", argument, handle->made);
  return handle;
}

bool out_cell(const Call *call, void **out) {
  if (out == NULL) {
    crash(call, "the out pointer is nullptr");
    return false;
  }
  Handle *handle = known(out);
  if (handle != NULL) {
    crash(call, "arguments in the wrong order: the place of the out pointer holds: %s", handle->made);
    return false;
  }
  if ((uintptr_t)out % sizeof(void *) != 0) {
    crash(call, "the out pointer %p is not the address of a pointer", (void *)out);
    return false;
  }
  if (*out != NULL) {
    refuse(call, "the out pointer's cell holds %p: it must be zero before the call", *out);
    return false;
  }
  return true;
}

static bool is_utf8(const char *text) {
  for (const unsigned char *at = (const unsigned char *)text; *at != 0;) {
    int more = *at < 0x80 ? 0 : *at >= 0xc2 && *at < 0xe0 ? 1 : *at >= 0xe0 && *at < 0xf0 ? 2 : *at >= 0xf0 && *at < 0xf5 ? 3 : -1;
    if (more < 0) return false;
    for (at++; more > 0; more--, at++)
      if ((*at & 0xc0) != 0x80) return false;
  }
  return true;
}

bool sane_string(const Call *call, const char *text, size_t most, const char *argument) {
  if (text == NULL) {
    crash(call, "Invalid Function Argument: %s is NULL", argument);
    return false;
  }
  if (known(text) != NULL) {
    crash(call, "arguments in the wrong order: %s is a %s", argument, kind_names[known(text)->kind]);
    return false;
  }
  size_t length = strnlen(text, most + 1);
  if (length > most) refuse(call, "%s has no end within %zu bytes", argument, most);
  else if (length == 0) refuse(call, "%s is an empty string", argument);
  else if (!is_utf8(text)) refuse(call, "%s is not UTF-8", argument);
  else return true;
  return false;
}

// ------------------------------------------------------------------------------------------------------------ calls

static Call *calls;

bool enter(Call *call, int flags, const void *const *arguments, int count) {
  if (getpid() != owner) { // libdispatch dies in a forked child (runtime sheet, 1.3)
    violation("%s: called in a forked child", call->name);
    abort();
  }
  call->thread = this_thread();
  for (int i = 0; i < count; i++)
    if (arguments[i] != NULL) call->arguments[call->count++] = arguments[i];
  if ((flags & NEEDS_POOL) != 0 && top_pool == NULL) note(call, "no autorelease pool on this thread");
  char overlap[200] = "";
  pthread_mutex_lock(&calls_lock);
  for (Call *other = calls; other != NULL; other = other->next)
    for (int i = 0; i < other->count; i++)
      for (int j = 0; j < call->count; j++)
        if ((flags & CONTINUES) == 0 && other->arguments[i] == call->arguments[j])
          snprintf(overlap, sizeof overlap, "%s runs on thread %llu with the same object", other->name, (unsigned long long)other->thread);
  call->next = calls;
  calls = call;
  call->entered = true;
  pthread_mutex_unlock(&calls_lock);
  if (overlap[0] != 0) {
    refuse(call, "two threads at once: %s", overlap);
    return false;
  }
  resume_lock(call);
  return true;
}

void pause_lock(Call *call) {
  call->locked = false;
  pthread_mutex_unlock(&lock);
}

void resume_lock(Call *call) {
  pthread_mutex_lock(&lock);
  call->locked = true;
}

void leave(Call *call) {
  if (call->locked) pause_lock(call);
  if (!call->entered) return;
  pthread_mutex_lock(&calls_lock);
  for (Call **at = &calls; *at != NULL; at = &(*at)->next)
    if (*at == call) {
      *at = call->next;
      break;
    }
  pthread_mutex_unlock(&calls_lock);
}

// --------------------------------------------------------------------------------------------- settings and the tests' own functions

static void set(const char *key, const char *value) {
  bool on = strcmp(value, "0") != 0;
  if (strcmp(key, "limit") == 0) settings.limit = atol(value);
  else if (strcmp(key, "fail-compiles") == 0) settings.fail_compiles = atol(value);
  else if (strcmp(key, "poison") == 0) settings.poison_ms = atol(value);
  else if (strcmp(key, "slow-compile") == 0) settings.slow_compile_ms = atol(value);
  else if (strcmp(key, "slow-execute") == 0) settings.slow_execute_ms = atol(value);
  else if (strcmp(key, "zeros") == 0) settings.zeros = on;
  else if (strcmp(key, "hang-compile") == 0) settings.hang_compile = on;
  else if (strcmp(key, "hang-execute") == 0) settings.hang_execute = on;
  else if (strcmp(key, "compute") == 0) settings.no_compute = strcmp(value, "none") == 0;
  else if (strcmp(key, "threads") == 0) settings.strict_threads = strcmp(value, "strict") == 0;
  else if (strcmp(key, "order") == 0) settings.strict_order = strcmp(value, "strict") == 0;
  else if (strcmp(key, "abort") == 0) settings.aborts = on;
  else if (strcmp(key, "crash") == 0) snprintf(settings.crash, sizeof settings.crash, "%s", value);
  else if (strcmp(key, "crash-op") == 0) snprintf(settings.crash_op, sizeof settings.crash_op, "%s", value);
  else if (strcmp(key, "refuse-op") == 0) snprintf(settings.refuse_op, sizeof settings.refuse_op, "%s", value);
  // The rest is the simulator's, which refuses what it does not know.
}

static void configure(const char *text) {
  memset(&settings, 0, sizeof settings);
  settings.limit = 128; // programs per process; the 129th fails (runtime sheet, 1.3)
  snprintf(settings.text, sizeof settings.text, "%s", text == NULL ? "" : text);
  char copy[sizeof settings.text], *rest = copy;
  memcpy(copy, settings.text, sizeof copy);
  for (char *pair; (pair = strsep(&rest, ";")) != NULL;) {
    char *value = strchr(pair, '=');
    if (value == NULL) continue;
    *value++ = 0;
    set(pair, value);
  }
}

/** Replaces the configuration, as if the library had been loaded with this ESPRESSO_DOUBLE; counts and objects stay. */
API void espresso_double_configure(const char *text) {
  pthread_mutex_lock(&lock);
  configure(text);
  pthread_mutex_unlock(&lock);
}

static size_t put(char *out, size_t size, size_t at, const char *text) {
  for (; *text != 0; text++, at++)
    if (at + 1 < size) out[at] = *text;
  if (at + 1 < size) out[at] = '\n';
  return at + 1;
}

/** Writes violations, live objects and pools, a line each, NUL-terminated and cut at `size`; returns the length of all. */
API uint64_t espresso_double_report(char *out, uint64_t size) {
  size_t at = 0;
  pthread_mutex_lock(&lock);
  pthread_mutex_lock(&report_lock);
  for (Line *line = first_line; line != NULL; line = line->next) at = put(out, size, at, line->text);
  for (Handle *handle = handles; handle != NULL; handle = handle->next)
    if (handle->live) {
      char line[300];
      snprintf(line, sizeof line, "live: %s", handle->made);
      at = put(out, size, at, line);
    }
  for (Pool *pool = pools; pool != NULL; pool = pool->next) {
    char line[100];
    snprintf(line, sizeof line, "pool: pushed on thread %llu and not popped", (unsigned long long)pool->thread);
    at = put(out, size, at, line);
  }
  pthread_mutex_unlock(&report_lock);
  pthread_mutex_unlock(&lock);
  if (size > 0) out[at < size ? at : size - 1] = 0;
  return at;
}

/** Compiles, executes, live handles, live programs, most live programs, violations, bytes in live buffers, process id of the simulator. */
API void espresso_double_counts(uint64_t out[8]) {
  pthread_mutex_lock(&lock);
  uint64_t values[8] = {counts.compiles, counts.executes, counts.live_handles, counts.live_programs,
                        counts.peak_programs, counts.violations, counts.buffer_bytes, (uint64_t)simulator_process()};
  memcpy(out, values, sizeof values);
  pthread_mutex_unlock(&lock);
}

/** Writes the last message that went to stderr, without its frame. */
API void espresso_double_last_message(char *out, uint64_t size) {
  pthread_mutex_lock(&report_lock);
  snprintf(out, size, "%s", last_message);
  pthread_mutex_unlock(&report_lock);
}

/** Forgets the violations. Live objects and pools stay. */
API void espresso_double_reset_report(void) {
  pthread_mutex_lock(&report_lock);
  while (first_line != NULL) {
    Line *line = first_line;
    first_line = line->next;
    free(line);
  }
  last_line = &first_line;
  counts.violations = 0;
  pthread_mutex_unlock(&report_lock);
}

__attribute__((constructor)) static void loaded(void) {
  owner = getpid();
  pthread_key_create(&thread_end, thread_ended);
  configure(getenv("ESPRESSO_DOUBLE"));
}

__attribute__((destructor)) static void unloaded(void) {
  if (getpid() != owner) return;
  simulator_stop();
  // Violations are in the file already. Other threads may be inside a call that never returns, so nothing is locked.
  for (Handle *handle = handles; handle != NULL; handle = handle->next)
    if (handle->live) {
      char *line = format_text("leak: %s", handle->made);
      append_to_file(line);
      free(line);
    }
  for (Pool *pool = pools; pool != NULL; pool = pool->next) {
    char *line = format_text("pool: pushed on thread %llu and not popped", (unsigned long long)pool->thread);
    append_to_file(line);
    free(line);
  }
}
