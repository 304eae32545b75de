// The host's kernels behind a C interface. One translation unit: `compiled.py` builds it where the engine runs.
//
// Everything under `kernels.h` and `attention.h` is compiled once for each instruction set, in a namespace of its
// own; the set is chosen at run time. Threads share rows, never sums, so that a result does not depend on their
// number. Shapes and what callers must hold to are said at each exported function.

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>
#include <vector>

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

#include "paged.h"

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
#include "rows.h"
#undef LANES
} // namespace portable

#if defined(__x86_64__)
#include <immintrin.h>
BEGIN("avx2,fma")
namespace avx2 {
#define LANES 8
#include "kernels.h"
#include "attention.h"
#include "rows.h"
#undef LANES
} // namespace avx2
END
BEGIN("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512bf16")
namespace avx512 {
#define LANES 16
#include "kernels.h"
#include "attention.h"
#include "rows.h"
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

// Attention: writes `heard`. dim is even; what the tables name of the pools holds finite numbers wherever a row sees.
template <class T> static void attend(int set, int threads, const Paged &a) {
  const Cut made = cut(a, threads);
  const std::unique_ptr<float[]> kept(new float[made.kept * a.heads * (a.dim + 2)]);
  auto kernel = CHOSEN(set, attend<T>);
  auto room = CHOSEN(set, hearing_room);
  shared(threads, made.parts.size(), 1, [&](long first, long last) {
    for (long n = first; n < last; n++) {
      const Part &part = made.parts[n];
      const Tile &tile = made.tiles[part.tile];
      const std::unique_ptr<float[]> scratch(new float[room(tile.rows * a.heads / a.kv_heads, part.heads, a.dim) + 16]);
      kernel(a, tile, part, kept.get(), (float *)(((uintptr_t)scratch.get() + 63) & ~(uintptr_t)63));
    }
  });
  auto joining = CHOSEN(set, join<T>);
  shared(threads, made.joints.size() * a.heads, 16, [&](long first, long last) {
    for (long n = first; n < last; n++)
      joining(a, made.joints[n / a.heads], n % a.heads, kept.get());
  });
}

EXPORT void attend_bf16(int set, int threads, const Paged *a) { attend<bf16>(set, threads, *a); }
EXPORT void attend_f32(int set, int threads, const Paged *a) { attend<float>(set, threads, *a); }

// Rows of a projection [rows, heads + 2 kv_heads, dim]: writes q [rows, heads, dim], and keys and values into their
// slots of the pools [slots, kv_heads, dim]. cos, sin [positions, dim / 2]. No two rows share a slot that is read.
template <class T>
static void rotate(int set, int threads, long rows, long heads, long kv_heads, long dim, const T *projected,
                   const T *cos, const T *sin, const int64_t *positions, const int64_t *slots, T *q, T *keys,
                   T *values) {
  auto kernel = CHOSEN(set, rotate<T>);
  shared(threads, rows, 16, [&](long first, long last) {
    for (long row = first; row < last; row++) {
      const long turn = positions[row] * (dim / 2), place = slots[row] * kv_heads * dim;
      kernel(heads, kv_heads, dim, projected + row * (heads + 2 * kv_heads) * dim, cos + turn, sin + turn,
             q + row * heads * dim, keys + place, values + place);
    }
  });
}

EXPORT void rotate_bf16(int set, int threads, long rows, long heads, long kv_heads, long dim, const bf16 *projected,
                        const bf16 *cos, const bf16 *sin, const int64_t *positions, const int64_t *slots, bf16 *q,
                        bf16 *keys, bf16 *values) {
  rotate(set, threads, rows, heads, kv_heads, dim, projected, cos, sin, positions, slots, q, keys, values);
}

EXPORT void rotate_f32(int set, int threads, long rows, long heads, long kv_heads, long dim, const float *projected,
                       const float *cos, const float *sin, const int64_t *positions, const int64_t *slots, float *q,
                       float *keys, float *values) {
  rotate(set, threads, rows, heads, kv_heads, dim, projected, cos, sin, positions, slots, q, keys, values);
}

// The experts of each row of logits [rows, experts]: ids and weights [rows, top].
template <class T>
static void choose(int set, int threads, long rows, long experts, long top, const T *logits, int64_t *ids,
                   T *weights) {
  auto kernel = CHOSEN(set, choose<T>);
  shared(threads, rows, 64, [&](long first, long last) {
    for (long row = first; row < last; row++)
      kernel(experts, top, logits + row * experts, ids + row * top, weights + row * top);
  });
}

EXPORT void choose_bf16(int set, int threads, long rows, long experts, long top, const bf16 *logits, int64_t *ids,
                        bf16 *weights) {
  choose(set, threads, rows, experts, top, logits, ids, weights);
}

EXPORT void choose_f32(int set, int threads, long rows, long experts, long top, const float *logits, int64_t *ids,
                       float *weights) {
  choose(set, threads, rows, experts, top, logits, ids, weights);
}
