// A strict double of Espresso's e5rt C interface, for machines without a Neural Engine: every function of the table in the runtime sheet (1.1), and
// objc_autoreleasePoolPush and Pop. It checks every call (kind and life of objects, order of arguments and calls, sizes, threads, pools), and lets
// anekit's simulator compute, in a process of its own (simulate.ts). Built by build.ts:
//   cc -shared -fPIC -O1 -g -Wall -Wextra -Werror -pthread -o espresso.so *.c
//
// Environment, read when the library is loaded:
//   ESPRESSO_DOUBLE            key=value;key=value. Keys of this library:
//     limit=N                  loaded programs per process (128: the 129th fails; the sheet saw ceilings of 110 to 120, too)
//     fail-compiles=N          the next N compiles fail, then they work
//     poison=MS                for so long after a failed compile every compile fails
//     zeros=1                  outputs are zeros, and nothing says so
//     slow-compile=MS, hang-compile=1, hang-execute=1
//     crash=compile|execute|load-time   abort() there; load-time is when an operation is made or a function loaded
//     crash-op=NAME[,NAME]     abort() when a program with such an operator is compiled
//     refuse-op=NAME[,NAME]    such a program does not compile
//     compute=none             all state is checked, no data touched, no simulator started; only the signature of the text is read
//     threads=strict           an object may be used only on the thread that made it; otherwise on any, one at a time
//     abort=1                  what would crash the real library aborts, instead of failing
//     order=strict             ports must not be released before the buffers that are bound to them
//   Other keys (chip, os and switches of what chips refuse or compute otherwise) are the simulator's: see quirks.ts.
//   ESPRESSO_DOUBLE_SIMULATOR  command of the simulator, its words separated by newlines
//   ESPRESSO_DOUBLE_REPORT     file to which violations are appended as they happen, and what is left over at exit, a line each, after the process id
//   ESPRESSO_DOUBLE_LOG        file for what the simulator writes to stderr
//
// For tests: espresso_double_report, espresso_double_counts, espresso_double_reset_report, espresso_double_configure (support.c).
//
// Where a sheet is silent the strictest plausible reading was taken; such places say "Silent:".

#include "double.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { LONGEST_PATH = 1023, LONGEST_NAME = 255, MOST_EVENTS = 127 };

typedef struct { Handle handle; char *cache; } Config;
typedef struct { Handle handle; Config *config; } Compiler;
typedef struct { Handle handle; uint64_t mask; bool masked, forced, segmented; char custom[256]; } CompilerOptions;
typedef struct { Handle handle; Compiler *compiler; Program *program; } Library;
typedef struct { Handle handle; Library *library; const char *name; } Function;
typedef struct { Handle handle; Function *function; bool named, allocates; } OpOptions;

typedef struct {
  Handle handle;
  uint64_t size;
  uint32_t type;
  char *data;
  void *map; // whole pages; data ends where they end, before a page that nobody may touch
  size_t map_bytes;
} Buffer;

typedef struct Port Port;
typedef struct { Port *port; Buffer *buffer; } Slot; // what was bound last

// FRESH may be encoded; ENCODED stands in a stream; RESET stood in one that was reset; READY is prepared to be encoded again.
typedef enum { FRESH, ENCODED, RESET, READY } State;

typedef struct Stream Stream;
typedef struct Event Event;
typedef struct {
  Handle handle;
  OpOptions *options;
  Program *program;
  Slot *slots; // inputs first
  State state;
  Stream *stream;
  bool *aliased; // by output and input: shared at the first encode
  Event *completion;
} Operation;

struct Port { Handle handle; Operation *operation; unsigned index; };
struct Stream { Handle handle; Operation **operations; unsigned count; bool ever_encoded; };
struct Event { Handle handle; uint64_t last, future; Operation *operation; };

static unsigned running_async;

static unsigned port_count(const Program *program) { return program->inputs + program->outputs; }

static bool is_live(const void *object) { return ((const Handle *)object)->live; }

// ---------------------------------------------------------------------------------------------------------- release

// The object behind a cell, checked; NULL after a refusal.
static void *released(const Call *call, void **cell, Kind kind) {
  if (cell == NULL) {
    crash(call, "the address of the handle is nullptr");
    return NULL;
  }
  if (known(cell) != NULL) {
    crash(call, "takes the address of the handle, got the handle itself: %s", known(cell)->made);
    return NULL;
  }
  if (*cell == NULL) {
    refuse(call, "there is nothing to release: the handle is nullptr");
    return NULL;
  }
  return get(call, *cell, kind, "handle");
}

static int64_t drop(void **cell, void *object) {
  bury(object);
  *cell = NULL;
  return DONE;
}

// Notes every live object of a kind that still depends on the one being released.
#define STILL(call, KIND, Type, condition, text)                                                                      \
  for (Handle *each = all_handles(); each != NULL; each = each->next)                                                 \
    if (each->live && each->kind == KIND) {                                                                           \
      Type *user = (Type *)each;                                                                                      \
      if (condition) note(call, "released before %s: %s", text, each->made);                                          \
    }

#define RELEASE(...) CALL(0, __VA_ARGS__)
#define BEHIND(cell) ((cell) == NULL ? NULL : *(cell))

static void unload(Program *program) {
  if (--program->references > 0) return;
  counts.live_programs -= program->slots;
  program->slots = 0;
  if (program->number != 0) simulator_release(program->number);
}

// --------------------------------------------------------------------------------------------------- compiler config

API int64_t e5rt_e5_compiler_config_options_create(void **out) {
  CALL(NEEDS_POOL, out);
  if (!out_cell(&call, out)) return MISUSED;
  *out = make(&call, CONFIG, sizeof(Config), "");
  return DONE;
}

API int64_t e5rt_e5_compiler_config_options_release(void **object) {
  RELEASE(BEHIND(object));
  Config *self = released(&call, object, CONFIG);
  if (self == NULL) return MISUSED;
  STILL(&call, COMPILER, Compiler, user->config == self, "the compiler made from it"); // step 6: options, compiler, config
  return drop(object, self);
}

API int64_t e5rt_e5_compiler_config_options_set_cache_bundle_location(void *object, const char *path) {
  CALL(0, object);
  Config *self = get(&call, object, CONFIG, "config");
  if (self == NULL || !sane_string(&call, path, LONGEST_PATH, "path")) return MISUSED;
  struct stat status;
  if (stat(path, &status) != 0 || !S_ISDIR(status.st_mode)) return refuse(&call, "the cache bundle location %s is not a folder", path);
  free(self->cache);
  self->cache = strdup(path);
  return DONE;
}

static int64_t flag(const Call *call, int value) {
  return value == 0 || value == 1 ? DONE : refuse(call, "%d is neither 0 nor 1", value);
}

API int64_t e5rt_e5_compiler_config_options_set_bundle_cache_apfs_purgeable(void *object, int value) {
  CALL(0, object);
  return get(&call, object, CONFIG, "config") == NULL ? MISUSED : flag(&call, value);
}

// ---------------------------------------------------------------------------------------------------------- compiler

API int64_t e5rt_e5_compiler_create(void **out) {
  CALL(NEEDS_POOL, out);
  if (!out_cell(&call, out)) return MISUSED;
  *out = make(&call, COMPILER, sizeof(Compiler), "");
  return DONE;
}

API int64_t e5rt_e5_compiler_create_with_config(void **out, void *config) {
  CALL(NEEDS_POOL, out, config);
  Config *self = get(&call, config, CONFIG, "config");
  if (self == NULL || !out_cell(&call, out)) return MISUSED;
  // Silent: whether a compiler copies its config. A location that is set afterwards is taken to come too late.
  if (self->cache == NULL) return refuse(&call, "the config has no cache bundle location");
  Compiler *compiler = make(&call, COMPILER, sizeof *compiler, self->cache);
  compiler->config = self;
  *out = compiler;
  return DONE;
}

API int64_t e5rt_e5_compiler_release(void **object) {
  RELEASE(BEHIND(object));
  Compiler *self = released(&call, object, COMPILER);
  return self == NULL ? MISUSED : drop(object, self);
}

API int64_t e5rt_e5_compiler_options_create(void **out) {
  CALL(NEEDS_POOL, out);
  if (!out_cell(&call, out)) return MISUSED;
  *out = make(&call, COMPILER_OPTIONS, sizeof(CompilerOptions), "");
  return DONE;
}

API int64_t e5rt_e5_compiler_options_release(void **object) {
  RELEASE(BEHIND(object));
  CompilerOptions *self = released(&call, object, COMPILER_OPTIONS);
  return self == NULL ? MISUSED : drop(object, self);
}

API int64_t e5rt_e5_compiler_options_set_compute_device_types_mask(void *object, uint64_t mask) {
  CALL(0, object);
  CompilerOptions *self = get(&call, object, COMPILER_OPTIONS, "options");
  if (self == NULL) return MISUSED;
  if (mask == 0 || mask > 7) return refuse(&call, "mask 0x%llx names no device", (unsigned long long)mask);
  self->mask = mask;
  self->masked = true;
  return DONE;
}

API int64_t e5rt_e5_compiler_options_get_compute_device_types_mask(void *object, uint64_t *out) {
  CALL(0, object);
  CompilerOptions *self = get(&call, object, COMPILER_OPTIONS, "options");
  if (self == NULL) return MISUSED;
  if (out == NULL) return crash(&call, "the out pointer is nullptr");
  *out = self->masked ? self->mask : 7; // Silent: the default; all devices
  return DONE;
}

API int64_t e5rt_e5_compiler_options_set_custom_ane_compiler_options(void *object, const char *value) {
  CALL(0, object);
  CompilerOptions *self = get(&call, object, COMPILER_OPTIONS, "options");
  if (self == NULL || !sane_string(&call, value, sizeof self->custom - 1, "value")) return MISUSED;
  strcpy(self->custom, value);
  return DONE;
}

API int64_t e5rt_e5_compiler_options_set_force_recompilation(void *object, int value) {
  CALL(0, object);
  CompilerOptions *self = get(&call, object, COMPILER_OPTIONS, "options");
  if (self == NULL) return MISUSED;
  self->forced = value == 1;
  return flag(&call, value);
}

API int64_t e5rt_e5_compiler_options_set_force_bnns_graph(void *object, int value) {
  CALL(0, object);
  if (get(&call, object, COMPILER_OPTIONS, "options") == NULL) return MISUSED;
  if (value == 1) note(&call, "BNNS is the CPU: the Neural Engine is not used");
  return flag(&call, value);
}

API int64_t e5rt_e5_compiler_options_set_segmenter(void *object, const char *value) {
  CALL(0, object);
  CompilerOptions *self = get(&call, object, COMPILER_OPTIONS, "options");
  if (self == NULL || !sane_string(&call, value, LONGEST_NAME, "value")) return MISUSED;
  if (strcmp(value, "graph") != 0) return refuse(&call, "unknown segmenter \"%s\"", value); // only "graph" was ever used
  self->segmented = true;
  return DONE;
}

API int64_t e5rt_e5_compiler_options_set_enable_profiling(void *object, int value) {
  CALL(0, object);
  return get(&call, object, COMPILER_OPTIONS, "options") == NULL ? MISUSED : flag(&call, value);
}

static int64_t now_ms(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static int64_t failed_at = INT64_MIN / 2;

static int64_t compile_failure(bool poisons, const char *text) {
  if (poisons) failed_at = now_ms();
  say("%s", text);
  return COMPILE_FAILED;
}

#define ANEC_FAILED "MILCompilerForANE error: failed to compile ANE model using ANEF. Error=_ANECompiler : ANECCompile() FAILED"

static bool listed_operator(const char *blank, const char *list, char *found, size_t size) {
  char copy[512], *rest = copy;
  snprintf(copy, sizeof copy, "%s", list);
  for (char *name; (name = strsep(&rest, ",")) != NULL;)
    if (*name != 0 && has_operator(blank, name)) {
      snprintf(found, size, "%s", name);
      return true;
    }
  return false;
}

// The produced bundle, with the file that names the device (runtime sheet, 1.1); NULL where the folder takes nothing.
static char *write_bundle(const char *cache) {
  static unsigned bundles;
  char *bundle = format_text("%s/main-%ld-%u.bundle", cache, (long)getpid(), ++bundles);
  char *file = format_text("%s/analytics.mil", bundle);
  FILE *out = mkdir(bundle, 0777) == 0 || errno == EEXIST ? fopen(file, "we") : NULL;
  free(file);
  if (out != NULL) {
    fputs("SelectedBackend = string(\"ane\")\n", out);
    fclose(out);
    return bundle;
  }
  free(bundle);
  return NULL;
}

// Lines that the simulator adds to a success.
static void take_lines(const Call *call, Program *program, char *text) {
  for (char *line; (line = strsep(&text, "\n")) != NULL;) {
    if (strncmp(line, "note ", 5) == 0) note(call, "%s", line + 5);
    if (strncmp(line, "load ", 5) == 0) program->load_failure = strdup(line + 5);
  }
}

API int64_t e5rt_e5_compiler_compile(void *compiler, const char *path, void *options, void **out_library) {
  CALL(NEEDS_POOL, compiler, options, out_library);
  Compiler *self = get(&call, compiler, COMPILER, "compiler");
  if (self == NULL || !sane_string(&call, path, LONGEST_PATH, "path")) return MISUSED;
  CompilerOptions *choice = get(&call, options, COMPILER_OPTIONS, "options");
  if (choice == NULL || !out_cell(&call, out_library)) return MISUSED;
  if (self->config == NULL) return refuse(&call, "the compiler has no config and so no cache bundle location");
  if (!is_live(self->config)) return refuse(&call, "the compiler's config was released");
  if (!choice->masked || choice->mask != 4) note(&call, "mask picks another device: 0x%llx, the Neural Engine is 0x4", (unsigned long long)choice->mask);
  if (!choice->forced) note(&call, "force_recompilation is not set"); // step 3
  if (!choice->segmented) note(&call, "the segmenter is not set");    // step 3
  char *text = NULL, *problem = read_text(path, &text);
  if (problem != NULL) {
    refuse(&call, "%s", problem);
    free(problem);
    return MISUSED;
  }
  char *bundle = write_bundle(self->config->cache);
  if (bundle == NULL) {
    refuse(&call, "the cache bundle location %s cannot be written", self->config->cache);
    free(text);
    return MISUSED;
  }

  counts.compiles++;
  bool poisoned = settings.poison_ms > 0 && now_ms() - failed_at < settings.poison_ms;
  bool to_fail = settings.fail_compiles > 0;
  if (to_fail) settings.fail_compiles--;
  char *blank = blank_text(text), name[64];
  char custom[sizeof choice->custom];
  strcpy(custom, choice->custom);
  Program *program = calloc(1, sizeof *program);
  if (program == NULL) abort();

  pause_lock(&call);
  touch_stack();
  if (settings.slow_compile_ms > 0) sleep_ms(settings.slow_compile_ms);
  if (settings.hang_compile) hang();
  if (strcmp(settings.crash, "compile") == 0) abort();
  if (listed_operator(blank, settings.crash_op, name, sizeof name)) abort();
  Outcome outcome = ANSWERED;
  char *answer = NULL;
  if (to_fail || poisoned) outcome = REFUSED, answer = strdup(ANEC_FAILED);
  else if (listed_operator(blank, settings.refuse_op, name, sizeof name)) outcome = REFUSED, answer = format_text("%s: %s", ANEC_FAILED, name);
  else if ((answer = read_signature(text, program)) != NULL) outcome = REFUSED;
  else if (!settings.no_compute) outcome = simulator_compile(path, custom, &program->number, &answer);
  free(blank);
  free(text);
  resume_lock(&call);

  int64_t code = DONE;
  if (!is_live(self) || !is_live(choice)) code = crash(&call, "the compiler or its options were released during the compile");
  else if (outcome == MISUSE) code = refuse(&call, "%s", answer);
  else if (outcome != ANSWERED) code = compile_failure(!poisoned, answer);
  if (code == DONE) {
    program->references = 1;
    program->bundle = bundle;
    if (answer != NULL) take_lines(&call, program, answer);
    Library *library = make(&call, LIBRARY, sizeof *library, path);
    library->compiler = self;
    library->program = program;
    *out_library = library;
  } else {
    free(bundle);
  }
  free(answer);
  return code;
}

// ----------------------------------------------------------------------------------------------------------- library

API int64_t e5rt_program_library_create(void **out, const char *bundle_path) {
  CALL(NEEDS_POOL, out);
  struct stat status;
  if (bundle_path == NULL || known(bundle_path) != NULL || *bundle_path == 0 || stat(bundle_path, &status) != 0)
    return refuse(&call, "Invalid E5 path specified. @ GetE5PathFromCompositeBundle");
  if (!out_cell(&call, out)) return MISUSED;
  for (Handle *each = all_handles(); each != NULL; each = each->next) {
    if (!each->live || each->kind != LIBRARY) continue;
    Program *program = ((Library *)each)->program;
    if (strcmp(program->bundle, bundle_path) != 0) continue;
    Library *library = make(&call, LIBRARY, sizeof *library, bundle_path);
    library->program = program;
    program->references++;
    *out = library;
    return DONE;
  }
  // Compile and dispatch must be in one process (runtime sheet, 1.3). Silent: a bundle whose library was released counts as elsewhere, too.
  say("ANE model load has failed for on-device compiled macho. Must re-compile the E5 bundle. @ GetANEFModel");
  return LOAD_FAILED;
}

API int64_t e5rt_program_library_release(void **object) {
  RELEASE(BEHIND(object));
  Library *self = released(&call, object, LIBRARY);
  if (self == NULL) return MISUSED;
  STILL(&call, FUNCTION, Function, user->library == self, "a function of it");
  unload(self->program);
  return drop(object, self);
}

API int64_t e5rt_program_library_get_num_functions(void *object, uint64_t *out) {
  CALL(0, object);
  Library *self = get(&call, object, LIBRARY, "library");
  if (self == NULL) return MISUSED;
  if (out == NULL) return crash(&call, "the out pointer is nullptr");
  *out = self->program->function_count;
  return DONE;
}

API int64_t e5rt_program_library_get_function_names(void *object, uint64_t count, const char **names) {
  CALL(0, object);
  Library *self = get(&call, object, LIBRARY, "library");
  if (self == NULL) return MISUSED;
  if (names == NULL) return crash(&call, "the out pointer is nullptr");
  if (count != self->program->function_count) return refuse(&call, "there are %u functions, not %llu", self->program->function_count, (unsigned long long)count);
  for (uint64_t i = 0; i < count; i++) names[i] = self->program->functions[i];
  return DONE;
}

API int64_t e5rt_program_library_retain_program_function(void *object, const char *name, void **out) {
  CALL(NEEDS_POOL, object, out);
  Library *self = get(&call, object, LIBRARY, "library");
  if (self == NULL || !sane_string(&call, name, LONGEST_NAME, "name") || !out_cell(&call, out)) return MISUSED;
  if (strcmp(name, "main") != 0) return refuse(&call, "there is no program function \"%s\"; \"main\" is the one that is retained", name);
  Function *function = make(&call, FUNCTION, sizeof *function, name);
  function->library = self;
  function->name = "main";
  *out = function;
  return DONE;
}

API int64_t e5rt_program_function_release(void **object) {
  RELEASE(BEHIND(object));
  Function *self = released(&call, object, FUNCTION);
  if (self == NULL) return MISUSED;
  STILL(&call, OP_OPTIONS, OpOptions, user->function == self, "operation options made from it");
  return drop(object, self);
}

API int64_t e5rt_program_function_get_name(void *object, const char **out) {
  CALL(0, object);
  Function *self = get(&call, object, FUNCTION, "function");
  if (self == NULL) return MISUSED;
  if (out == NULL) return crash(&call, "the out pointer is nullptr");
  *out = self->name;
  return DONE;
}

API int64_t e5rt_program_function_load_for_execution(void *object) {
  CALL(NEEDS_POOL, object);
  Function *self = get(&call, object, FUNCTION, "function");
  if (self == NULL) return MISUSED;
  if (!is_live(self->library)) return refuse(&call, "the library of the function was released");
  if (strcmp(settings.crash, "load-time") == 0) abort();
  return DONE;
}

// ------------------------------------------------------------------------------------------------------ operation options

API int64_t e5rt_precompiled_compute_op_create_options_create_with_program_function(void **out, void *object) {
  CALL(NEEDS_POOL, out, object);
  if (object == NULL || known(object) == NULL) return refuse(&call, "Cannot provide program function as nullptr. @ Create"); // also when reversed
  Function *function = get(&call, object, FUNCTION, "function");
  if (function == NULL || !out_cell(&call, out)) return MISUSED;
  if (!is_live(function->library)) return refuse(&call, "the library of the function was released");
  OpOptions *self = make(&call, OP_OPTIONS, sizeof *self, function->name);
  self->function = function;
  *out = self;
  return DONE;
}

API int64_t e5rt_precompiled_compute_op_create_options_release(void **object) {
  RELEASE(BEHIND(object));
  OpOptions *self = released(&call, object, OP_OPTIONS);
  if (self == NULL) return MISUSED;
  STILL(&call, OPERATION, Operation, user->options == self, "the operation made from them");
  return drop(object, self);
}

API int64_t e5rt_precompiled_compute_op_create_options_set_operation_name(void *object, const char *name) {
  CALL(0, object);
  OpOptions *self = get(&call, object, OP_OPTIONS, "options");
  if (self == NULL || !sane_string(&call, name, LONGEST_NAME, "name")) return MISUSED;
  if (strcmp(name, "main") != 0) note(&call, "operation name \"%s\": only \"main\" is known to work", name); // Silent
  self->named = true;
  return DONE;
}

API int64_t e5rt_precompiled_compute_op_create_options_set_allocate_intermediate_buffers(void *object, int value) {
  CALL(0, object);
  OpOptions *self = get(&call, object, OP_OPTIONS, "options");
  if (self == NULL) return MISUSED;
  self->allocates = value == 1;
  return flag(&call, value);
}

// ---------------------------------------------------------------------------------------------------------- operation

// Whether all that an operation stands on is there.
static bool founded(const Call *call, const Operation *operation) {
  const OpOptions *options = operation->options;
  const char *gone = !is_live(options)                      ? "options"
                     : !is_live(options->function)          ? "function"
                     : !is_live(options->function->library) ? "library"
                                                            : NULL;
  if (gone != NULL) refuse(call, "the %s of the operation was released before it: %s", gone, operation->handle.made);
  return gone == NULL;
}

API int64_t e5rt_execution_stream_operation_create_precompiled_compute_operation_with_options(void **out, void *object) {
  CALL(NEEDS_POOL, out, object);
  OpOptions *options = get(&call, object, OP_OPTIONS, "options");
  if (options == NULL || !out_cell(&call, out)) return MISUSED;
  if (!options->named) return refuse(&call, "the operation has no name");
  if (!options->allocates) return refuse(&call, "allocate_intermediate_buffers is not set to 1");
  if (!is_live(options->function)) return refuse(&call, "the function of the options was released");
  Library *library = options->function->library;
  if (!is_live(library)) return refuse(&call, "the library of the options' function was released");
  // Step 6 releases the compiler after the operation was made.
  if (library->compiler != NULL && (!is_live(library->compiler) || !is_live(library->compiler->config)))
    note(&call, "the compiler or its config was released before the operation was made");
  if (strcmp(settings.crash, "load-time") == 0) abort();
  Program *program = library->program;
  if (program->load_failure != NULL || counts.live_programs >= (uint64_t)settings.limit) {
    const char *reason = program->load_failure != NULL ? program->load_failure : "Program load failure (0x50004)";
    say("ANE model load has failed for on-device compiled macho: %s", reason);
    return LOAD_FAILED;
  }
  program->slots++;
  program->references++;
  if (++counts.live_programs > counts.peak_programs) counts.peak_programs = counts.live_programs;
  Operation *self = make(&call, OPERATION, sizeof *self, library->handle.made);
  self->options = options;
  self->program = program;
  self->slots = calloc(port_count(program), sizeof *self->slots);
  if (self->slots == NULL) abort();
  *out = self;
  return DONE;
}

API int64_t e5rt_execution_stream_operation_release(void **object) {
  RELEASE(BEHIND(object));
  Operation *self = released(&call, object, OPERATION);
  if (self == NULL) return MISUSED;
  unload(self->program);
  return drop(object, self);
}

static int64_t retain_port(const Call *call, void *object, const char *name, void **out, bool output) {
  Operation *self = get(call, object, OPERATION, "operation");
  if (self == NULL || !sane_string(call, name, LONGEST_NAME, "name") || !out_cell(call, out) || !founded(call, self)) return MISUSED;
  const Program *program = self->program;
  for (unsigned i = output ? program->inputs : 0; i < (output ? port_count(program) : program->inputs); i++) {
    if (strcmp(program->ports[i].name, name) != 0) continue;
    Port *port = make(call, PORT, sizeof *port, name);
    port->operation = self;
    port->index = i;
    *out = port;
    return DONE;
  }
  return refuse(call, "there is no %s port \"%s\"", output ? "output" : "input", name);
}

API int64_t e5rt_execution_stream_operation_retain_input_port(void *object, const char *name, void **out) {
  CALL(NEEDS_POOL, object, out);
  return retain_port(&call, object, name, out, false);
}

API int64_t e5rt_execution_stream_operation_retain_output_port(void *object, const char *name, void **out) {
  CALL(NEEDS_POOL, object, out);
  return retain_port(&call, object, name, out, true);
}

API int64_t e5rt_execution_stream_operation_prepare_op_for_encode(void *object) {
  CALL(NEEDS_POOL, object);
  Operation *self = get(&call, object, OPERATION, "operation");
  if (self == NULL || !founded(&call, self)) return MISUSED;
  if (self->state == FRESH) return refuse(&call, "Op has not been encoded and hence cannot be reset to 'ReadyForEncode'");
  if (self->state == ENCODED) return refuse(&call, "the operation is encoded in a stream, which must be reset first"); // step 10
  self->state = READY;
  return DONE;
}

static bool may_change(const Call *call, const Operation *operation) {
  if (operation->state != ENCODED && operation->state != RESET) return true;
  refuse(call, "the operation is encoded; bindings change before the first encode or after prepare_op_for_encode: %s", operation->handle.made);
  return false;
}

API int64_t e5rt_execution_stream_operation_bind_completion_event(void *object, void *event) {
  CALL(0, object, event);
  Operation *self = get(&call, object, OPERATION, "operation");
  Event *other = self == NULL ? NULL : get(&call, event, EVENT, "event");
  if (other == NULL || !may_change(&call, self)) return MISUSED;
  if (other->operation != NULL && other->operation != self && is_live(other->operation))
    return refuse(&call, "the event is bound to another operation");
  self->completion = other;
  other->operation = self;
  return DONE;
}

API int64_t e5rt_execution_stream_operation_bind_dependent_events(void *object, void **events, uint64_t count) {
  CALL(0, object);
  Operation *self = get(&call, object, OPERATION, "operation");
  if (self == NULL || !may_change(&call, self)) return MISUSED;
  if (events == NULL || count == 0 || count > MOST_EVENTS) return refuse(&call, "%llu events", (unsigned long long)count);
  for (uint64_t i = 0; i < count; i++)
    if (get(&call, events[i], EVENT, "events") == NULL) return MISUSED;
  return DONE; // execute_sync runs in order whatever depends on what (runtime sheet, 1.3)
}

// --------------------------------------------------------------------------------------------------- buffers and ports

// Released memory stays inaccessible for a while, so that a view which outlives its buffer is met; then the oldest goes back.
enum { QUARANTINE = 256 };
static struct { void *map; size_t bytes; } quarantine[QUARANTINE];
static unsigned quarantined;

API int64_t e5rt_buffer_object_alloc(void **out, uint64_t size, uint32_t type) {
  CALL(NEEDS_POOL, out);
  if (type >= 3) return refuse(&call, "Invalid BufferType @ AllocMemory");
  if (!out_cell(&call, out)) return MISUSED;
  if (size == 0 || size > 1ull << 36) return refuse(&call, "%llu bytes", (unsigned long long)size);
  if (type != 0) note(&call, "buffer type %u: only 0 is known to work", type);
  size_t page = (size_t)sysconf(_SC_PAGESIZE), used = (size_t)(size + page - 1) / page * page;
  char *map = mmap(NULL, used + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANON, -1, 0);
  if (map == MAP_FAILED) {
    say("cannot allocate %llu bytes @ AllocMemory", (unsigned long long)size);
    return LOAD_FAILED;
  }
  mprotect(map + used, page, PROT_NONE);
  char detail[64];
  snprintf(detail, sizeof detail, "%llu bytes", (unsigned long long)size);
  Buffer *self = make(&call, BUFFER, sizeof *self, detail);
  self->size = size;
  self->type = type;
  self->map = map;
  self->map_bytes = used + page;
  self->data = map + (used - size) / 64 * 64;
  memset(self->data, 0xff, size); // NaNs: step 7 clears it, and the sheet does not say that alloc does
  counts.buffer_bytes += size;
  *out = self;
  return DONE;
}

API int64_t e5rt_buffer_object_release(void **object) {
  RELEASE(BEHIND(object));
  Buffer *self = released(&call, object, BUFFER);
  if (self == NULL) return MISUSED;
  // Both documented orders release the operation or the stream before the buffers.
  for (Handle *each = all_handles(); each != NULL; each = each->next) {
    Operation *operation = (Operation *)each;
    if (!each->live || each->kind != OPERATION || operation->state != ENCODED || operation->stream == NULL || !is_live(operation->stream)) continue;
    for (unsigned i = 0; i < port_count(operation->program); i++)
      if (operation->slots[i].buffer == self) {
        note(&call, "released while an encoded operation and its stream live: port \"%s\" of %s", operation->program->ports[i].name, each->made);
        break;
      }
  }
  madvise(self->map, self->map_bytes, MADV_DONTNEED);
  mprotect(self->map, self->map_bytes, PROT_NONE);
  unsigned at = quarantined++ % QUARANTINE;
  if (quarantine[at].map != NULL) munmap(quarantine[at].map, quarantine[at].bytes);
  quarantine[at].map = self->map;
  quarantine[at].bytes = self->map_bytes;
  counts.buffer_bytes -= self->size;
  return drop(object, self);
}

API int64_t e5rt_buffer_object_get_data_ptr(void *object, void **out) {
  CALL(0, object);
  Buffer *self = get(&call, object, BUFFER, "buffer");
  if (self == NULL) return MISUSED;
  if (out == NULL) return crash(&call, "the out pointer is nullptr");
  *out = self->data;
  return DONE;
}

API int64_t e5rt_buffer_object_get_size(void *object, uint64_t *out) {
  CALL(0, object);
  Buffer *self = get(&call, object, BUFFER, "buffer");
  if (self == NULL) return MISUSED;
  if (out == NULL) return crash(&call, "the out pointer is nullptr");
  *out = self->size;
  return DONE;
}

API int64_t e5rt_io_port_release(void **object) {
  RELEASE(BEHIND(object));
  Port *self = released(&call, object, PORT);
  if (self == NULL) return MISUSED;
  Operation *operation = self->operation;
  Slot *slot = &operation->slots[self->index];
  if (slot->port == self) {
    if (is_live(operation) && operation->state == ENCODED && operation->stream != NULL && is_live(operation->stream))
      note(&call, "released while its encoded operation and the stream live: %s", self->handle.made);
    // The sheet releases a buffer before its port, but also a port whose buffer another port owns (share_buffer), and buffers that several
    // programs share must outlive the ports of the first: held only where a test asks for it.
    if (strstr(settings.text, "order=strict") != NULL && is_live(slot->buffer)) note(&call, "released before the buffer that is bound to it: %s", self->handle.made);
  }
  return drop(object, self);
}

API int64_t e5rt_io_port_bind_buffer_object(void *object, void *buffer) {
  CALL(0, object, buffer);
  Port *self = get(&call, object, PORT, "port");
  Buffer *memory = self == NULL ? NULL : get(&call, buffer, BUFFER, "buffer");
  if (memory == NULL) return MISUSED;
  Operation *operation = self->operation;
  if (!is_live(operation)) return refuse(&call, "the operation of the port was released: %s", self->handle.made);
  if (!founded(&call, operation) || !may_change(&call, operation)) return MISUSED;
  const PortType *type = &operation->program->ports[self->index];
  if (memory->size < type->bytes) return refuse(&call, "port \"%s\" needs %llu bytes, the buffer has %llu", type->name, (unsigned long long)type->bytes, (unsigned long long)memory->size);
  if (memory->size % 64 != 0) return refuse(&call, "the buffer of port \"%s\" has %llu bytes, which is no multiple of 64", type->name, (unsigned long long)memory->size); // step 7
  operation->slots[self->index] = (Slot){self, memory};
  return DONE;
}

// Returns a std::string by hidden pointer: no C caller can take it (runtime sheet, 1.1).
API int64_t e5rt_error_code_get_string(int64_t code) {
  CALL(0, NULL);
  return crash(&call, "code %lld: the result is a C++ string, which C cannot receive", (long long)code);
}

// ------------------------------------------------------------------------------------------------------------- events

API int64_t e5rt_async_event_create(void **out, const char *name, uint32_t initial) {
  CALL(NEEDS_POOL, out);
  if (name == NULL) return refuse(&call, "Invalid Function Argument: eventName is NULL");
  if (!sane_string(&call, name, LONGEST_NAME, "eventName") || !out_cell(&call, out)) return MISUSED;
  Event *self = make(&call, EVENT, sizeof *self, name);
  self->last = initial;
  *out = self;
  return DONE;
}

API int64_t e5rt_async_event_release(void **object) {
  RELEASE(BEHIND(object));
  Event *self = released(&call, object, EVENT);
  if (self == NULL) return MISUSED;
  Operation *operation = self->operation;
  if (operation != NULL && is_live(operation) && operation->completion == self && operation->state == ENCODED && operation->stream != NULL && is_live(operation->stream))
    note(&call, "released while its encoded operation and the stream live: %s", self->handle.made);
  return drop(object, self);
}

API int64_t e5rt_async_event_signal(void *object) {
  CALL(0, object);
  Event *self = get(&call, object, EVENT, "event");
  if (self == NULL) return MISUSED;
  self->last = self->future > self->last ? self->future : self->last + 1;
  return DONE;
}

API int64_t e5rt_async_event_sync_wait(void *object) {
  CALL(NEEDS_POOL); // may overlap a signal of the same event
  Event *self = get(&call, object, EVENT, "event");
  if (self == NULL) return MISUSED;
  while (self->last < self->future) {
    // Silent: what else may signal. Without a run in flight nothing here will: the real library would wait for ever.
    if (running_async == 0) return crash(&call, "would wait for ever: nothing that signals the event is running");
    pause_lock(&call);
    sleep_ms(1);
    resume_lock(&call);
    if (!is_live(self)) return crash(&call, "the event was released while a thread waited for it");
  }
  return DONE;
}

API int64_t e5rt_async_event_get_last_signaled_value(void *object, uint64_t *out) {
  CALL(0, object);
  Event *self = get(&call, object, EVENT, "event");
  if (self == NULL) return MISUSED;
  if (out == NULL) return crash(&call, "the out pointer is nullptr");
  *out = self->last;
  return DONE;
}

API int64_t e5rt_async_event_set_active_future_value(void *object, uint64_t value) {
  CALL(0, object);
  Event *self = get(&call, object, EVENT, "event");
  if (self == NULL) return MISUSED;
  if (value <= self->last) return refuse(&call, "future value %llu is not above the last signaled one, %llu", (unsigned long long)value, (unsigned long long)self->last);
  self->future = value;
  return DONE;
}

// ------------------------------------------------------------------------------------------------------------- stream

API int64_t e5rt_execution_stream_create(void **out) {
  CALL(NEEDS_POOL, out);
  if (!out_cell(&call, out)) return MISUSED;
  *out = make(&call, STREAM, sizeof(Stream), "");
  return DONE;
}

API int64_t e5rt_execution_stream_release(void **object) {
  RELEASE(BEHIND(object));
  Stream *self = released(&call, object, STREAM);
  if (self == NULL) return MISUSED;
  unsigned alive = 0;
  for (unsigned i = 0; i < self->count; i++) alive += is_live(self->operations[i]);
  // The sheet gives two orders: the stream before everything, or after everything.
  if (alive > 0 && alive < self->count) note(&call, "released after %u of its %u operations: it comes first or last", self->count - alive, self->count);
  for (unsigned i = 0; i < self->count; i++) self->operations[i]->stream = NULL;
  free(self->operations);
  self->operations = NULL;
  return drop(object, self);
}

// Ports bound, buffers there, no two outputs in one place.
static bool bound(const Call *call, const Operation *operation) {
  const Program *program = operation->program;
  for (unsigned i = 0; i < port_count(program); i++) {
    const Slot *slot = &operation->slots[i];
    const char *name = program->ports[i].name;
    if (slot->buffer == NULL) refuse(call, "port \"%s\" has no buffer", name);
    else if (!is_live(slot->buffer)) crash(call, "the buffer of port \"%s\" was released: %s", name, slot->buffer->handle.made);
    else if (!is_live(slot->port)) refuse(call, "port \"%s\" was released, and its binding with it", name); // Silent
    else continue;
    return false;
  }
  for (unsigned i = program->inputs; i < port_count(program); i++)
    for (unsigned j = program->inputs; j < i; j++)
      if (operation->slots[i].buffer == operation->slots[j].buffer) {
        refuse(call, "outputs \"%s\" and \"%s\" are bound to the same buffer", program->ports[j].name, program->ports[i].name);
        return false;
      }
  return true;
}

// Sharing the buffers of inputs with outputs is settled at the first encode (share_buffer: before the first execute only).
static bool aliases_allowed(const Call *call, Operation *operation) {
  const Program *program = operation->program;
  bool first = operation->aliased == NULL;
  if (first) operation->aliased = calloc((size_t)program->inputs * program->outputs + 1, sizeof *operation->aliased);
  if (operation->aliased == NULL) abort();
  for (unsigned o = 0; o < program->outputs; o++)
    for (unsigned i = 0; i < program->inputs; i++) {
      bool *before = &operation->aliased[(size_t)o * program->inputs + i];
      bool shared = operation->slots[program->inputs + o].buffer == operation->slots[i].buffer;
      if (first) *before = shared;
      if (!shared || *before) continue;
      refuse(call, "output \"%s\" shares the buffer of input \"%s\" only since the first encode", program->ports[program->inputs + o].name, program->ports[i].name);
      return false;
    }
  return true;
}

API int64_t e5rt_execution_stream_encode_operation(void *object, void *op) {
  CALL(NEEDS_POOL, object, op);
  Stream *self = get(&call, object, STREAM, "stream");
  Operation *operation = self == NULL ? NULL : get(&call, op, OPERATION, "operation");
  if (operation == NULL || !founded(&call, operation)) return MISUSED;
  if (operation->state == ENCODED)
    return refuse(&call, "the operation is encoded in %s stream; reset that and prepare the operation first", operation->stream == self ? "this" : "another");
  if (operation->state == RESET) return refuse(&call, "the operation was encoded before and is not ReadyForEncode: prepare it first"); // step 10
  if (!bound(&call, operation) || !aliases_allowed(&call, operation)) return MISUSED;
  self->operations = realloc(self->operations, (self->count + 1) * sizeof *self->operations);
  if (self->operations == NULL) abort();
  self->operations[self->count++] = operation;
  self->ever_encoded = true;
  operation->state = ENCODED;
  operation->stream = self;
  return DONE;
}

API int64_t e5rt_execution_stream_reset(void *object) {
  CALL(NEEDS_POOL, object);
  Stream *self = get(&call, object, STREAM, "stream");
  if (self == NULL) return MISUSED;
  if (self->count == 0) return refuse(&call, "a fresh stream cannot be reset"); // Silent: one that was reset is fresh again
  for (unsigned i = 0; i < self->count; i++) {
    self->operations[i]->state = RESET;
    self->operations[i]->stream = NULL;
  }
  self->count = 0;
  return DONE;
}

static bool runnable(const Call *call, const Stream *stream) {
  if (stream->count == 0) {
    refuse(call, "nothing is encoded in the stream");
    return false;
  }
  for (unsigned i = 0; i < stream->count; i++) {
    const Operation *operation = stream->operations[i];
    if (!is_live(operation)) {
      crash(call, "an encoded operation was released: %s", operation->handle.made);
      return false;
    }
    if (!founded(call, operation) || !bound(call, operation)) return false;
  }
  return true;
}

static int64_t run_operation(Call *call, const Operation *operation) {
  const Program *program = operation->program;
  Bytes inputs[program->inputs + 1];
  Alias *aliases = calloc((size_t)program->inputs * program->outputs + 1, sizeof *aliases);
  if (aliases == NULL) abort();
  uint32_t alias_count = 0;
  uint64_t expected = 0;
  for (unsigned i = 0; i < program->inputs; i++) inputs[i] = (Bytes){operation->slots[i].buffer->data, program->ports[i].bytes};
  for (unsigned o = 0; o < program->outputs; o++) {
    expected += program->ports[program->inputs + o].bytes;
    for (unsigned i = 0; i < program->inputs; i++)
      if (operation->slots[program->inputs + o].buffer == operation->slots[i].buffer) aliases[alias_count++] = (Alias){o, i};
  }
  char *outputs, *text;
  pause_lock(call);
  Outcome outcome = simulator_execute(program->number, inputs, program->inputs, aliases, alias_count, &outputs, expected, &text);
  resume_lock(call);
  free(aliases);
  if (outcome != ANSWERED) {
    say("ANEProgramProcessRequestDirect() Failed with status=0x1d : Program Inference error: %s", text);
    free(text);
    return EXECUTE_FAILED;
  }
  if (!is_live(operation) || !bound(call, operation)) {
    free(outputs);
    return crash(call, "an operation or its buffers were released during the run");
  }
  const char *from = outputs;
  for (unsigned o = 0; o < program->outputs; o++) {
    uint64_t bytes = program->ports[program->inputs + o].bytes;
    memcpy(operation->slots[program->inputs + o].buffer->data, from, bytes);
    from += bytes;
  }
  free(outputs);
  return DONE;
}

// Operations run one after the other in the order of their encoding.
static int64_t run_stream(Call *call, Stream *stream) {
  counts.executes++;
  touch_stack();
  if (strcmp(settings.crash, "execute") == 0) abort();
  if (settings.hang_execute) {
    pause_lock(call);
    hang();
  }
  for (unsigned i = 0; i < stream->count; i++) {
    const Operation *operation = stream->operations[i];
    int64_t code = settings.no_compute ? DONE : run_operation(call, operation);
    if (code != DONE) return code;
    if (settings.zeros)
      for (unsigned o = operation->program->inputs; o < port_count(operation->program); o++)
        memset(operation->slots[o].buffer->data, 0, operation->program->ports[o].bytes);
  }
  return DONE;
}

API int64_t e5rt_execution_stream_execute_sync(void *object) {
  CALL(NEEDS_POOL, object);
  Stream *self = get(&call, object, STREAM, "stream");
  if (self == NULL || !runnable(&call, self)) return MISUSED;
  return run_stream(&call, self);
}

typedef struct { // head of an Objective-C block
  void *isa;
  int flags, reserved;
  int64_t (*invoke)(void *);
} Block;
typedef struct { Stream *stream; Block *block; } Submission;

static int64_t submitted(Stream *stream) {
  CALL(0, stream);
  if (!is_live(stream) || !runnable(&call, stream)) return crash(&call, "the stream changed before its run began");
  int64_t code = run_stream(&call, stream);
  for (unsigned i = 0; code == DONE && i < stream->count; i++) { // completion events advance only here (runtime sheet, 1.3)
    Event *event = stream->operations[i]->completion;
    if (event != NULL && is_live(event)) event->last = event->future > event->last ? event->future : event->last + 1;
  }
  return code;
}

static void *submission(void *argument) {
  Submission *self = argument;
  submitted(self->stream);
  self->block->invoke(self->block);
  free(self);
  __atomic_sub_fetch(&running_async, 1, __ATOMIC_SEQ_CST);
  return NULL;
}

API int64_t e5rt_execution_stream_submit_async(void *object, void *block) {
  CALL(NEEDS_POOL, object);
  Stream *self = get(&call, object, STREAM, "stream");
  if (self == NULL || !runnable(&call, self)) return MISUSED;
  if (block == NULL) return crash(&call, "the block is NULL: objc_retain of it crashes");
  if (known(block) != NULL || (uintptr_t)block % sizeof(void *) != 0) return crash(&call, "%p is no block", block);
  Submission *next = malloc(sizeof *next);
  if (next == NULL) abort();
  *next = (Submission){self, block};
  pthread_t thread;
  __atomic_add_fetch(&running_async, 1, __ATOMIC_SEQ_CST);
  if (pthread_create(&thread, NULL, submission, next) != 0) abort();
  pthread_detach(thread);
  return DONE;
}

API int64_t e5rt_execution_stream_async_submit(void *object, void *block) {
  CALL(NEEDS_POOL, object);
  (void)block;
  return refuse(&call, "Use submit_async");
}

API int64_t e5rt_execution_stream_set_quality_of_service(void *object, uint64_t value) {
  CALL(0, object);
  if (get(&call, object, STREAM, "stream") == NULL) return MISUSED;
  return value > 63 ? refuse(&call, "quality of service %llu", (unsigned long long)value) : DONE; // 0 to 63 were tried (bridge sheet, 2)
}

API int64_t e5rt_execution_stream_set_ane_execution_priority(void *object, uint64_t value) {
  CALL(0, object);
  if (get(&call, object, STREAM, "stream") == NULL) return MISUSED;
  return value > 63 ? refuse(&call, "priority %llu", (unsigned long long)value) : DONE; // Silent: the range
}
