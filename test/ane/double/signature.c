// What the library itself must know of a model.mil: functions, ports and their sizes. Shares nothing with anekit's parser.

#include "double.h"
#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

char *read_text(const char *path, char **text) {
  struct stat status;
  if (stat(path, &status) != 0) return format_text("cannot open %s: %s", path, strerror(errno));
  if (!S_ISREG(status.st_mode)) return format_text("%s is not a file", path);
  FILE *file = fopen(path, "rbe");
  if (file == NULL) return format_text("cannot open %s: %s", path, strerror(errno));
  size_t size = (size_t)status.st_size;
  char *bytes = malloc(size + 1);
  if (bytes == NULL) abort();
  size_t got = fread(bytes, 1, size, file);
  fclose(file);
  bytes[got] = 0;
  if (got != size || strlen(bytes) != size) {
    free(bytes);
    return format_text("%s cannot be read as text", path);
  }
  *text = bytes;
  return NULL;
}

char *blank_text(const char *text) {
  char *copy = strdup(text);
  if (copy == NULL) abort();
  for (char *at = copy; *at != 0; at++) {
    if (at[0] == '/' && at[1] == '/') {
      while (*at != 0 && *at != '\n') *at++ = ' ';
      if (*at == 0) break;
    } else if (*at == '"') {
      for (at++; *at != 0 && *at != '"'; at++) {
        if (*at == '\\' && at[1] != 0) *at++ = '.';
        *at = '.';
      }
      if (*at == 0) break;
    }
  }
  return copy;
}

static const char *skip(const char *at) {
  while (isspace((unsigned char)*at)) at++;
  return at;
}

static bool is_word(int c) { return isalnum(c) || c == '_' || c == '@'; }

// End of the word at `at`, which may be no word.
static const char *word_end(const char *at) {
  while (is_word((unsigned char)*at)) at++;
  return at;
}

bool has_operator(const char *blank, const char *name) {
  size_t length = strlen(name);
  for (const char *at = blank; (at = strchr(at, '=')) != NULL; at++) {
    const char *word = skip(at + 1), *end = word_end(word);
    if ((size_t)(end - word) == length && strncmp(word, name, length) == 0 && *skip(end) == '(') return true;
  }
  return false;
}

static const struct { const char *name; unsigned bytes; } types[] = {
    {"fp16", 2}, {"bf16", 2}, {"int16", 2}, {"uint16", 2}, {"fp32", 4}, {"int32", 4}, {"uint32", 4},
    {"int8", 1}, {"uint8", 1}, {"bool", 1},   {"fp64", 8},   {"int64", 8}, {"uint64", 8}};

// A type, `tensor<fp16, [1, 2]>` or `fp16`; returns what follows or NULL.
static const char *read_type(const char *at, PortType *port) {
  const char *name = at, *end = word_end(at);
  bool tensor = end - at == 6 && strncmp(at, "tensor", 6) == 0;
  if (tensor) {
    at = skip(end);
    if (*at != '<') return NULL;
    name = skip(at + 1);
    end = word_end(name);
  }
  port->bytes = 0;
  for (size_t i = 0; i < sizeof types / sizeof *types; i++)
    if (strlen(types[i].name) == (size_t)(end - name) && strncmp(name, types[i].name, (size_t)(end - name)) == 0)
      port->bytes = types[i].bytes;
  if (port->bytes == 0) return NULL;
  free(port->type);
  port->type = strndup(name, (size_t)(end - name));
  if (!tensor) return end;
  at = skip(end);
  if (*at != ',') return NULL;
  at = skip(at + 1);
  if (*at != '[') return NULL;
  for (at = skip(at + 1); *at != ']';) {
    char *rest;
    if (!isdigit((unsigned char)*at)) return NULL;
    unsigned long long extent = strtoull(at, &rest, 10);
    if (extent == 0 || extent > 1u << 30 || port->bytes > UINT64_MAX / extent / 2) return NULL;
    port->bytes *= extent;
    at = skip(rest);
    if (*at == ',') at = skip(at + 1);
  }
  at = skip(at + 1);
  return *at == '>' ? at + 1 : NULL;
}

// The type with which the body declares `name`: `TYPE name =` or `TYPE name,`.
static bool declared(const char *body, const char *end, const char *name, size_t length, PortType *port) {
  for (const char *at = body; at + length < end; at++) {
    if (strncmp(at, name, length) != 0 || is_word((unsigned char)at[length]) || is_word((unsigned char)at[-1])) continue;
    const char *after = skip(at + length);
    if (*after != '=' && *after != ',') continue;
    const char *back = at - 1;
    while (back > body && isspace((unsigned char)*back)) back--;
    if (*back == '>') {
      while (back > body && strncmp(back, "tensor", 6) != 0) back--;
    } else {
      while (back > body && is_word((unsigned char)back[-1])) back--;
    }
    const char *typed = read_type(back, port);
    if (typed != NULL && skip(typed) == at) return true;
  }
  return false;
}

static PortType *add_port(Program *program) {
  unsigned count = program->inputs + program->outputs;
  program->ports = realloc(program->ports, (count + 1) * sizeof *program->ports);
  if (program->ports == NULL) abort();
  memset(&program->ports[count], 0, sizeof *program->ports);
  return &program->ports[count];
}

static char *read_function(const char *at, Program *program) {
  at = strchr(at, '(');
  if (at == NULL) return format_text("a function has no parameters");
  for (at = skip(at + 1); *at != ')';) {
    PortType *port = add_port(program);
    const char *rest = read_type(at, port);
    if (rest == NULL) return format_text("cannot read the type of parameter %u", program->inputs);
    const char *name = skip(rest), *end = word_end(name);
    if (end == name) return format_text("parameter %u has no name", program->inputs);
    port->name = strndup(name, (size_t)(end - name));
    program->inputs++;
    at = skip(end);
    if (*at == ',') at = skip(at + 1);
    else if (*at != ')') return format_text("expected , or ) behind parameter %s", port->name);
  }
  const char *body = strchr(at, '{'), *close = NULL;
  if (body == NULL) return format_text("a function has no body");
  int depth = 0;
  for (const char *scan = body; *scan != 0; scan++) {
    if (*scan == '{') depth++;
    if (*scan == '}' && --depth == 0) {
      close = scan;
      break;
    }
  }
  if (close == NULL) return format_text("the body of a function has no end");
  at = skip(close + 1);
  if (at[0] != '-' || at[1] != '>') return format_text("a function returns nothing");
  at = skip(at + 2);
  if (*at != '(') return format_text("expected ( behind ->");
  for (at = skip(at + 1); *at != ')';) {
    const char *end = word_end(at);
    if (end == at) return format_text("expected the name of a result");
    PortType *port = add_port(program);
    if (!declared(body, close, at, (size_t)(end - at), port))
      return format_text("InvalidMILProgram: result \"%.*s\" is not defined in the function", (int)(end - at), at);
    port->name = strndup(at, (size_t)(end - at));
    program->outputs++;
    at = skip(end);
    if (*at == ',') at = skip(at + 1);
  }
  if (program->outputs == 0) return format_text("InvalidMILProgram: a function returns nothing");
  return NULL;
}

char *read_signature(const char *text, Program *program) {
  char *blank = blank_text(text), *failure = NULL;
  bool main_seen = false;
  for (const char *at = blank; failure == NULL && (at = strstr(at, "func ")) != NULL; at++) {
    if (at > blank && is_word((unsigned char)at[-1])) continue;
    const char *name = skip(at + 5), *end = word_end(name);
    program->functions = realloc(program->functions, (program->function_count + 1) * sizeof *program->functions);
    if (program->functions == NULL) abort();
    program->functions[program->function_count++] = strndup(name, (size_t)(end - name));
    if (end - name != 4 || strncmp(name, "main", 4) != 0) continue;
    main_seen = true;
    failure = read_function(end, program);
  }
  if (failure == NULL && !main_seen) failure = format_text("InvalidMILProgram: there is no function main");
  free(blank);
  return failure;
}
