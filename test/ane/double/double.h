// What the parts of Espresso's double share; espresso.c says how it is configured and what it is for.

#ifndef ANEKIT_DOUBLE_H
#define ANEKIT_DOUBLE_H

#define _GNU_SOURCE
#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

// Only what is marked API leaves the library: a host that exports a function named like one of ours must not replace it.
#define API __attribute__((visibility("default")))
#pragma GCC visibility push(hidden)

// Espresso's codes are not documented; callers may rely on nothing but nonzero (runtime sheet, 1.1).
enum { DONE = 0, MISUSED = 11, COMPILE_FAILED = 12, LOAD_FAILED = 13, EXECUTE_FAILED = 14 };

typedef enum {
  CONFIG, COMPILER, COMPILER_OPTIONS, LIBRARY, FUNCTION, OP_OPTIONS, OPERATION, PORT, BUFFER, STREAM, EVENT, KINDS
} Kind;

// First member of every object. Objects are never freed, so that a stale handle is recognised and no address comes twice.
typedef struct Handle {
  Kind kind;
  bool live;
  uint64_t serial;
  uint64_t thread; // that made it
  char made[240];
  struct Handle *next; // all live or all buried objects, latest first
} Handle;

// A call in progress. It stands in a list from before it waits for the lock until it returns, so overlapping use is seen.
typedef struct Call {
  const char *name;
  const void *arguments[4];
  int count;
  uint64_t thread;
  bool entered;
  bool locked;
  struct Call *next;
} Call;

enum { NEEDS_POOL = 1, CONTINUES = 2 }; // CONTINUES a call that may not have returned yet

bool enter(Call *call, int flags, const void *const *arguments, int count);
void leave(Call *call);
void pause_lock(Call *call);
void resume_lock(Call *call);

// Begins a function of the interface: unlocked again at every return. The pointers are objects that no other thread may use meanwhile.
#define CALL(flags, ...)                                                                                              \
  __attribute__((cleanup(leave))) Call call = {.name = __func__};                                                     \
  const void *const call_arguments[] = {__VA_ARGS__};                                                                 \
  if (!enter(&call, (flags), call_arguments, (int)(sizeof call_arguments / sizeof *call_arguments))) return MISUSED

#define PRINTF __attribute__((format(printf, 2, 3)))
PRINTF int64_t refuse(const Call *call, const char *format, ...); // records a violation, prints Espresso's message, gives a code
PRINTF int64_t crash(const Call *call, const char *format, ...);  // the same where the real library dies; aborts with abort=1
PRINTF void note(const Call *call, const char *format, ...);      // records a violation that the real library does not see
void say(const char *format, ...) __attribute__((format(printf, 1, 2))); // a message of Espresso
void violation(const char *format, ...) __attribute__((format(printf, 1, 2)));

void *make(const Call *call, Kind kind, size_t size, const char *detail);
void *get(const Call *call, const void *object, Kind kind, const char *argument);
Handle *known(const void *object); // also released ones; NULL for what is not ours
void bury(Handle *handle);
Handle *all_handles(void); // live ones, latest first
bool out_cell(const Call *call, void **out);
bool sane_string(const Call *call, const char *text, size_t most, const char *argument);
uint64_t this_thread(void);

typedef struct {
  char text[4096]; // as given, for the simulator
  long limit;
  long fail_compiles;
  long poison_ms;
  long slow_compile_ms, slow_execute_ms;
  bool zeros, hang_compile, hang_execute, no_compute, strict_threads, strict_order, aborts;
  char crash[32], crash_op[512], refuse_op[512];
} Settings;
extern Settings settings;

typedef struct {
  uint64_t compiles, executes, live_handles, live_programs, peak_programs, violations, buffer_bytes;
} Counts;
extern Counts counts;

typedef struct {
  char *name;
  char *type; // fp16
  uint64_t bytes;
} PortType;

// What the compiler made of a file. It stays loaded while a library or an operation refers to it.
typedef struct Program {
  uint32_t number; // in the simulator
  int references;
  uint64_t slots; // operations made from it: one loaded program each
  unsigned inputs, outputs;
  PortType *ports; // inputs first
  char *bundle;
  char *load_failure; // why it cannot be loaded here
  char **functions;
  unsigned function_count;
} Program;

typedef struct { const void *data; uint64_t bytes; } Bytes;
typedef struct { uint32_t output, input; } Alias;

// signature.c: both return a message to be freed, or NULL.
char *read_text(const char *path, char **text);
char *read_signature(const char *text, Program *program);
char *blank_text(const char *text); // without what stands in strings and comments
bool has_operator(const char *blank, const char *name);

// simulator.c: outcome of a request; `text` is the message or the lines of a success, to be freed.
typedef enum { ANSWERED, REFUSED, CRASHED, MISUSE, LOST } Outcome;
Outcome simulator_compile(const char *path, const char *custom, uint32_t *number, char **text);
Outcome simulator_execute(uint32_t number, const Bytes *inputs, uint32_t input_count, const Alias *aliases,
                          uint32_t alias_count, char **outputs, uint64_t expected, char **text);
void simulator_release(uint32_t number);
pid_t simulator_process(void); // 0 where there is none
void simulator_stop(void);

void touch_stack(void);
void sleep_ms(long ms);
void hang(void) __attribute__((noreturn));
char *format_text(const char *format, ...) __attribute__((format(printf, 1, 2)));

#pragma GCC visibility pop

#endif
