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
//     slow-compile=MS, slow-execute=MS, hang-compile=1, hang-execute=1
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
// For tests: espresso_double_report, _counts, _reset_report, _last_message, _configure (support.c).
//
// Where a sheet is silent the strictest plausible reading was taken; such places say "Silent:".

#include "objects.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

// ---------------------------------------------------------------------------------------------------------- release

void *released(const Call *call, void **cell, Kind kind) {
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

int64_t drop(void **cell, void *object) {
  bury(object);
  *cell = NULL;
  return DONE;
}

void unload(Program *program) {
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

