// Runs of a stream with its copies in and out, from C: what the library under them takes by itself.
#include <dlfcn.h>
#include <stdint.h>
#include <string.h>

int64_t ane_dispatch(const char *library, uint64_t count, void *stream, void *input, const void *from, void *to,
                     const void *output, uint64_t bytes) {
  void *loaded = dlopen(library, RTLD_NOW);
  if (loaded == NULL) return -1;
  void *(*push)(void) = (void *(*)(void))dlsym(loaded, "objc_autoreleasePoolPush");
  void (*pop)(void *) = (void (*)(void *))dlsym(loaded, "objc_autoreleasePoolPop");
  int64_t (*execute)(void *) = (int64_t (*)(void *))dlsym(loaded, "e5rt_execution_stream_execute_sync");
  int64_t code = push == NULL || pop == NULL || execute == NULL ? -1 : 0;
  for (uint64_t i = 0; i < count && code == 0; i++) {
    memcpy(input, from, bytes);
    void *pool = push();
    code = execute(stream);
    pop(pool);
    memcpy(to, output, bytes);
  }
  dlclose(loaded);
  return code;
}
