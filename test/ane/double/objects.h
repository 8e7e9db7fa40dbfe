// The objects of Espresso's double, and how they are released.

#ifndef ANEKIT_DOUBLE_OBJECTS_H
#define ANEKIT_DOUBLE_OBJECTS_H

#include "double.h"

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

static inline unsigned port_count(const Program *program) { return program->inputs + program->outputs; }

static inline bool is_live(const void *object) { return ((const Handle *)object)->live; }

#pragma GCC visibility push(hidden)

// The object behind a cell, checked; NULL after a refusal.
void *released(const Call *call, void **cell, Kind kind);
int64_t drop(void **cell, void *object);
// A library or an operation lets go of its program.
void unload(Program *program);

#pragma GCC visibility pop

// Notes every live object of a kind that still depends on the one being released.
#define STILL(call, KIND, Type, condition, text)                                                                      \
  for (Handle *each = all_handles(); each != NULL; each = each->next)                                                 \
    if (each->live && each->kind == KIND) {                                                                           \
      Type *user = (Type *)each;                                                                                      \
      if (condition) note(call, "released before %s: %s", text, each->made);                                          \
    }

#define RELEASE(...) CALL(0, __VA_ARGS__)
#define BEHIND(cell) ((cell) == NULL ? NULL : *(cell))

#endif
