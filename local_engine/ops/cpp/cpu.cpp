// The host's kernels behind a C interface. One translation unit: `compiled.py` builds it where the engine runs.
//
// Everything under `kernels.h` and `attention.h` is compiled once for each instruction set, in a namespace of its
// own; the set is chosen at run time. Threads share rows, never sums, so that a result does not depend on their
// number. Shapes and what callers must hold to are said at each exported function.

#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstring>

#define INLINE static inline __attribute__((always_inline))
#define EXPORT extern "C" __attribute__((visibility("default")))

typedef uint16_t bf16; // only its bits are touched

static inline float one_float(float value) { return value; }
static inline float one_float(bf16 value) {
  uint32_t bits = (uint32_t)value << 16;
  float wide;
  memcpy(&wide, &bits, sizeof wide);
  return wide;
}

// To the nearest bf16, ties to even; a NaN stays one.
static inline void put_float(float *at, float value) { *at = value; }
static inline void put_float(bf16 *at, float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  *at = value != value ? 0x7fc0 : (bf16)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

// Runs `body(first, last)` over 0 .. items - 1 in chunks, on `threads` threads: whoever is free takes the next.
// Without OpenMP the pragma means nothing, and one thread takes all.
template <class Body> static void shared(int threads, long items, long chunk, const Body &body) {
  if (threads <= 1 || items <= chunk) {
    body(0, items);
    return;
  }
  std::atomic<long> next{0};
#pragma omp parallel num_threads(threads)
  for (long at; (at = next.fetch_add(chunk)) < items;)
    body(at, at + chunk < items ? at + chunk : items);
}

// The options of an instruction set, for all that follows until END.
#if defined(__clang__)
#define TEXT(x) #x
#define BEGIN(set) _Pragma(TEXT(clang attribute push(__attribute__((target(set))), apply_to = function)))
#define END _Pragma("clang attribute pop")
#elif defined(__GNUC__)
#define TEXT(x) #x
#define BEGIN(set) _Pragma("GCC push_options") _Pragma(TEXT(GCC target(set)))
#define END _Pragma("GCC pop_options")
#endif

#pragma GCC diagnostic ignored "-Wpsabi" // vectors wider than the base set never cross a call

namespace portable {
#define LANES 4
#include "kernels.h"
#include "attention.h"
#undef LANES
} // namespace portable

#if defined(__x86_64__)
#include <immintrin.h>
BEGIN("avx2,fma")
namespace avx2 {
#define LANES 8
#include "kernels.h"
#include "attention.h"
#undef LANES
} // namespace avx2
END
BEGIN("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512bf16")
namespace avx512 {
#define LANES 16
#include "kernels.h"
#include "attention.h"
#undef LANES
} // namespace avx512
END
#endif

// The best set that this processor has: 0 portable, 1 AVX2, 2 AVX-512 with VNNI and BF16.
EXPORT int best_set() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vnni") &&
      __builtin_cpu_supports("avx512bf16"))
    return 2;
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
    return 1;
#endif
  return 0;
}

// `portable::name`, `avx2::name` or `avx512::name`, whichever is `set`.
#if defined(__x86_64__)
#define CHOSEN(set, name) ((set) == 2 ? avx512::name : (set) == 1 ? avx2::name : portable::name)
#else
#define CHOSEN(set, name) portable::name
#endif

// Norms: rows of `width` at x, each divided by its root mean square and multiplied by `scale` in fp32, and only
// then rounded.
EXPORT void norm_bf16(int set, int threads, long rows, long width, const bf16 *x, const float *scale, bf16 *out) {
  auto kernel = CHOSEN(set, norm<bf16>);
  shared(threads, rows, 16, [&](long first, long last) {
    for (long row = first; row < last; row++)
      kernel(width, x + row * width, scale, out + row * width);
  });
}

EXPORT void norm_f32(int set, int threads, long rows, long width, const float *x, const float *scale, float *out) {
  auto kernel = CHOSEN(set, norm<float>);
  shared(threads, rows, 16, [&](long first, long last) {
    for (long row = first; row < last; row++)
      kernel(width, x + row * width, scale, out + row * width);
  });
}
