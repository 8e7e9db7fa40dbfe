// A double of Accelerate's matrix product for tests: it checks how it was called, computes by plain loops and overwrites every register that the caller
// must not rely on. ACCELERATE_DOUBLE says how it behaves, as words separated by commas: fast (a call that was made before returns at once), slow (each
// takes 5 ms), wrong (one element is off), nan (reads C although beta is 0), crash, hang; "@N" behind a word lets it begin with call N.
#define _GNU_SOURCE
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

typedef struct {
  int64_t trans_a, trans_b, m, n, k, lda, ldb, ldc;
  const void *a, *b, *c;
} Call;

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static int64_t calls;
/** Calls with the extents of the last one. */
static Call known[64];
static int known_count;
static char violations[4096];

static void violation(const char *format, long long value) {
  size_t used = strlen(violations);
  snprintf(violations + used, sizeof violations - used, format, value);
}

/** True where ACCELERATE_DOUBLE has a word, from its call on. */
static int behaves(const char *word, int64_t call) {
  const char *text = getenv("ACCELERATE_DOUBLE");
  size_t length = strlen(word);
  while (text != NULL && *text != 0) {
    size_t end = strcspn(text, ",");
    if (strncmp(text, word, length) == 0 && (end == length || text[length] == '@')) {
      return end == length || call >= atoll(text + length + 1);
    }
    text += end + (text[end] == ',');
  }
  return 0;
}

/** True for a call that was made before; notes others. */
static int repeated(const Call *call) {
  if (known_count > 0 && (known[0].m != call->m || known[0].n != call->n || known[0].k != call->k)) known_count = 0;
  for (int i = 0; i < known_count; i++) {
    if (memcmp(&known[i], call, sizeof *call) == 0) return 1;
  }
  if (known_count < 64) known[known_count++] = *call;
  return 0;
}

/** Copies what calls did wrong into `text`, ended by 0, forgets it, and returns the number of calls since this was asked. */
int64_t accelerate_double_report(char *text, int64_t bytes) {
  pthread_mutex_lock(&mutex);
  snprintf(text, (size_t)bytes, "%s", violations);
  violations[0] = 0;
  int64_t count = calls;
  calls = 0;
  pthread_mutex_unlock(&mutex);
  return count;
}

/** Every register that a C function may change. */
static void scramble(void) {
#if defined(__x86_64__)
  __asm__ volatile("mov $-1, %%rcx\n mov %%rcx, %%rdx\n mov %%rcx, %%rsi\n mov %%rcx, %%rdi\n mov %%rcx, %%r8\n mov %%rcx, %%r9\n"
                   "mov %%rcx, %%r10\n mov %%rcx, %%r11\n mov %%rcx, %%rax\n"
                   "pcmpeqb %%xmm0, %%xmm0\n movaps %%xmm0, %%xmm1\n movaps %%xmm0, %%xmm2\n movaps %%xmm0, %%xmm3\n"
                   "movaps %%xmm0, %%xmm4\n movaps %%xmm0, %%xmm5\n movaps %%xmm0, %%xmm6\n movaps %%xmm0, %%xmm7\n"
                   "movaps %%xmm0, %%xmm8\n movaps %%xmm0, %%xmm9\n movaps %%xmm0, %%xmm10\n movaps %%xmm0, %%xmm11\n"
                   "movaps %%xmm0, %%xmm12\n movaps %%xmm0, %%xmm13\n movaps %%xmm0, %%xmm14\n movaps %%xmm0, %%xmm15\n" ::
                       : "rax", "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4",
                         "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15");
#elif defined(__aarch64__)
  __asm__ volatile("mov x0, #-1\n mov x1, x0\n mov x2, x0\n mov x3, x0\n mov x4, x0\n mov x5, x0\n mov x6, x0\n mov x7, x0\n mov x8, x0\n"
                   "mov x9, x0\n mov x10, x0\n mov x11, x0\n mov x12, x0\n mov x13, x0\n mov x14, x0\n mov x15, x0\n mov x16, x0\n mov x17, x0\n"
                   "movi v0.16b, #255\n movi v1.16b, #255\n movi v7.16b, #255\n movi v16.16b, #255\n movi v31.16b, #255\n" ::
                       : "x0", "x1", "x2", "x3", "x4", "x5", "x6", "x7", "x8", "x9", "x10", "x11", "x12", "x13", "x14", "x15", "x16",
                         "x17", "v0", "v1", "v7", "v16", "v31");
#endif
}

static void check(int order, const Call *call, float alpha, float beta, const void *frame) {
  int a_rows = call->trans_a == 112, b_rows = call->trans_b == 112;
  if (order != 101) violation("order %lld;", order);
  if (call->trans_a != 111 && call->trans_a != 112) violation("transA %lld;", call->trans_a);
  if (call->trans_b != 111 && call->trans_b != 112) violation("transB %lld;", call->trans_b);
  if (call->m < 1 || call->n < 1 || call->k < 1) violation("extents of %lld;", call->m);
  if (call->lda < (a_rows ? call->m : call->k)) violation("lda %lld;", call->lda);
  if (call->ldb < (b_rows ? call->k : call->n)) violation("ldb %lld;", call->ldb);
  if (call->ldc < call->n) violation("ldc %lld;", call->ldc);
  if (alpha != 1) violation("alpha %lld;", (long long)alpha);
  if (beta != 0) violation("beta %lld;", (long long)beta);
  // Compilers keep the frame pointer a multiple of 16 if the stack pointer was one at the call.
  if ((uintptr_t)frame % 16 != 0) violation("stack at %lld;", (long long)(uintptr_t)frame);
  if ((uintptr_t)call->a % 4 != 0 || (uintptr_t)call->b % 4 != 0 || (uintptr_t)call->c % 4 != 0) violation("pointers%lld;", 0);
#if defined(__x86_64__)
  if ((_mm_getcsr() & ~0x3fu) != 0x1f80) violation("mxcsr %lld;", _mm_getcsr());
#endif
}

__attribute__((noinline, optimize("no-omit-frame-pointer"))) void
cblas_sgemm(int order, int trans_a, int trans_b, int m, int n, int k, float alpha, const float *a, int lda, const float *b, int ldb,
            float beta, float *c, int ldc) {
  Call call;
  memset(&call, 0, sizeof call);
  call = (Call){trans_a, trans_b, m, n, k, lda, ldb, ldc, a, b, c};
  pthread_mutex_lock(&mutex);
  int64_t number = calls++;
  int again = repeated(&call);
  check(order, &call, alpha, beta, __builtin_frame_address(0));
  pthread_mutex_unlock(&mutex);
  if (behaves("crash", number)) raise(SIGSEGV);
  while (behaves("hang", number)) sleep(1);
  if (behaves("slow", number)) usleep(5000);
  if (!(again && behaves("fast", number))) {
    for (int i = 0; i < m; i++) {
      float *row = c + (int64_t)i * ldc;
      if (behaves("nan", number)) {
        for (int j = 0; j < n; j++) row[j] *= beta;
      } else memset(row, 0, sizeof(float) * (size_t)n);
      for (int p = 0; p < k; p++) {
        float left = trans_a == 112 ? a[(int64_t)p * lda + i] : a[(int64_t)i * lda + p];
        if (trans_b == 112) {
          for (int j = 0; j < n; j++) row[j] += left * b[(int64_t)j * ldb + p];
        } else {
          const float *right = b + (int64_t)p * ldb;
          for (int j = 0; j < n; j++) row[j] += left * right[j];
        }
      }
    }
    if (behaves("wrong", number)) c[0] += 1;
  }
  scramble();
}
