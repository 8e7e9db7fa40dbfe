// Operations, ports, buffers, events and streams of Espresso's double; espresso.c is its beginning.

#include "objects.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static unsigned running_async;

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
    if (settings.strict_order && is_live(slot->buffer)) note(&call, "released before the buffer that is bound to it: %s", self->handle.made);
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
  if (settings.slow_execute_ms > 0) {
    pause_lock(call);
    sleep_ms(settings.slow_execute_ms);
    resume_lock(call);
    if (!is_live(stream) || !runnable(call, stream)) return crash(call, "the stream changed during the run");
  }
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
  CALL(CONTINUES, stream);
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
