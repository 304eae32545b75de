// The host's kernels behind a C interface. One translation unit: `compiled.py` builds it where the engine runs.
//
// Everything under `kernels.h` and `attention.h` is compiled once for each instruction set, in a namespace of its
// own; the set is chosen at run time. Threads share rows, never sums, so that a result does not depend on their
// number. Shapes and what callers must hold to are said at each exported function.

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
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

// Runs `body(first, last)` over 0 .. items - 1 on `threads` threads. Whoever is free takes the next range: long ones
// first, for memory is read fastest in long runs, and ever shorter ones, so that all end together; at least `least`
// items, as far as there are, and at most `most`. Without OpenMP the pragma means nothing, and one thread takes all.
template <class Body> static void shared(int threads, long items, long least, long most, const Body &body) {
  std::atomic<long> next{0};
#pragma omp parallel num_threads(threads) if (threads > 1 && items > least)
  for (long at = next.load(); at < items;) {
    const long fair = std::min(std::max((items - at) / (2 * threads), least), most), end = std::min(at + fair, items);
    if (next.compare_exchange_weak(at, end)) {
      body(at, end);
      at = next.load();
    }
  }
}

constexpr long GROUP = 32; // values that share a scale

// Products come in tiles of TILE rows of weights and STRIP rows of activations, which the cache holds beside each
// other: a packed row is decoded once for a whole strip.
constexpr long TILE = 32, STRIP = 96;

// So many rows of activations do not pay for decoding packed weights: both are multiplied as signed bytes.
constexpr long FEW = 8;

// Bytes that weights are asked for ahead of their use: further than a processor looks by itself, which stops at
// the end of a page.
constexpr long AHEAD = 6144;

// Sums of an output that a thread keeps beside it until all experts have been added.
constexpr long SUMS = 1 << 16;

enum Kind { FLOATS, PACKED, EIGHT_BITS };

// Weights [rows, k]: floats of the activations' type; MXFP4, blocks [rows, groups, 16] and scales [rows, groups]
// apart; or int8, each row 32 values a group and then a bf16 scale a group.
struct Matrix {
  int kind;
  long k, row_bytes;
  const uint8_t *values, *scales;
  Matrix(int kind, long k, long float_bytes, const void *values, const void *scales)
      : kind(kind), k(k), values((const uint8_t *)values), scales((const uint8_t *)scales) {
    row_bytes = kind == FLOATS ? k * float_bytes : kind == PACKED ? 16 * groups() : (GROUP + 2) * groups();
  }
  long groups() const { return (k + GROUP - 1) / GROUP; }
  // Of many matrices of `rows` rows one behind the other.
  Matrix expert(long n, long rows) const {
    Matrix one = *this;
    one.values += n * rows * row_bytes;
    one.scales += n * rows * groups();
    return one;
  }
};

// Rows of activations; `quantized` too where they are to be multiplied as bytes.
struct Rows {
  long count;
  const void *const *x;
  const void *const *quantized;
};

// One matrix's share of a product: from column `start` on of the `width` that all have together.
struct Linear {
  Matrix weight;
  Rows rows;
  long start, width;
  const void *bias, *add;
  void *out;
  bool wide; // the result stays fp32
};

// An expert and the pairs (row * top + place) that chose it: what goes in, and what comes out of the first half.
struct Chosen {
  long expert;
  const long *pairs;
  Rows in, out;
};

struct Experts {
  long rows, top, hidden, inner, count;
  float limit;
  Matrix up, down;
  const void *up_bias, *down_bias, *shares, *x;
  void *act, *y;
  const Chosen *chosen;
};

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

#if defined(__aarch64__)
#include <arm_neon.h>
#if defined(__linux__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif
#if defined(__clang__)
#define DOT "dotprod"
#else
#define DOT "arch=armv8.2-a+dotprod"
#endif
#endif

namespace portable {
#define LANES 4
#include "kernels.h"
#include "decode.h"
#include "rows.h"
#include "attention.h"
#include "between.h"
#undef LANES
} // namespace portable

#if defined(__x86_64__)
#include <immintrin.h>
BEGIN("avx2,fma")
namespace avx2 {
#define LANES 8
#include "kernels.h"
#include "decode.h"
#include "rows.h"
#include "attention.h"
#include "between.h"
#undef LANES
} // namespace avx2
END
BEGIN("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512bf16,bmi2")
namespace avx512 {
#define LANES 16
#include "kernels.h"
#include "decode.h"
#include "rows.h"
#include "attention.h"
#include "between.h"
#undef LANES
} // namespace avx512
END
#elif defined(__aarch64__)
BEGIN(DOT)
namespace dotted {
#define LANES 4
#define WITH_DOT
#include "kernels.h"
#include "decode.h"
#include "rows.h"
#include "attention.h"
#include "between.h"
#undef LANES
} // namespace dotted
END
#endif

// The best set that this processor has: 0 portable; 1 AVX2, or on ARM dot products of bytes; 2 AVX-512 with VNNI and
// BF16.
EXPORT int best_set() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vnni") &&
      __builtin_cpu_supports("avx512bf16"))
    return 2;
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
    return 1;
#elif defined(__APPLE__) && defined(__aarch64__)
  return 1;
#elif defined(__linux__) && defined(__aarch64__)
  return getauxval(AT_HWCAP) & HWCAP_ASIMDDP ? 1 : 0;
#endif
  return 0;
}

// The `name` of a set's namespace.
#if defined(__x86_64__)
#define CHOSEN(set, name) ((set) == 2 ? avx512::name : (set) == 1 ? avx2::name : portable::name)
#elif defined(__aarch64__)
#define CHOSEN(set, name) ((set) == 1 ? dotted::name : portable::name)
#else
#define CHOSEN(set, name) ((void)(set), portable::name)
#endif

// Memory for the length of a call, or of a thread.
struct Buffer {
  char *data = nullptr;
  size_t size = 0;
  Buffer() = default;
  Buffer(const Buffer &) = delete;
  ~Buffer() { free(data); }
  // At least `wanted` bytes on a line of the cache; what was in there is lost.
  char *room(size_t wanted) {
    if (wanted > size) {
      free(data);
      size = (wanted + 63) / 64 * 64;
      data = (char *)aligned_alloc(64, size);
      if (!data)
        abort();
    }
    return data;
  }
};

static thread_local Buffer decoded, totals;

// Addresses of `count` rows, `stride` bytes apart.
static std::vector<const void *> addresses(const void *first, long count, long stride) {
  std::vector<const void *> found(count);
  for (long n = 0; n < count; n++)
    found[n] = (const char *)first + n * stride;
  return found;
}

static long tiles_of(long rows) { return (rows + TILE - 1) / TILE; }

// Rows of k activations as signed bytes, in `buffer`; their addresses.
template <class T>
static std::vector<const void *> quantized(int set, int threads, int kind, long k,
                                           const std::vector<const void *> &x, Buffer &buffer) {
  long bytes = CHOSEN(set, quantized_bytes)(kind, k), count = x.size();
  char *data = buffer.room(count * bytes);
  memset(data, 0, count * bytes);
  auto found = addresses(data, count, bytes);
  auto kernel = CHOSEN(set, quantize_rows<T>);
  shared(threads, count, 16, 16, [&](long from, long to) { kernel(kind, k, x.data(), found.data(), from, to); });
  return found;
}

template <class T>
static void linear(int set, int threads, int kind, long rows, long k, long parts, const long *sizes,
                   const void *const *weights, const void *x, const void *bias, const void *add, void *out, bool wide) {
  Buffer buffer;
  auto in = addresses(x, rows, k * sizeof(T));
  std::vector<const void *> bytes;
  if (kind != FLOATS && sizeof(T) == 2 && rows <= FEW)
    bytes = quantized<T>(set, threads, kind, k, in, buffer);
  std::vector<long> starts(parts + 1);
  for (long n = 0; n < parts; n++)
    starts[n + 1] = starts[n] + sizes[n];
  const long width = starts[parts];
  std::vector<Linear> each;
  for (long n = 0; n < parts; n++)
    each.push_back({Matrix(kind, k, sizeof(T), weights[n], nullptr),
                    {rows, in.data(), bytes.empty() ? nullptr : bytes.data()}, starts[n], width, bias, add, out, wide});
  auto kernel = CHOSEN(set, linear_rows<T>);
  shared(threads, tiles_of(width), 1, width, [&](long from, long to) {
    from *= TILE, to = std::min(to * TILE, width);
    for (long n = 0; n < parts; n++)
      if (long first = std::max(from, starts[n]), last = std::min(to, starts[n + 1]); first < last)
        kernel(each[n], first - starts[n], last - starts[n], decoded.room(TILE * k * sizeof(T)));
  });
}

// x [rows, k] times matrices weights[n] [sizes[n], k] (`Kind`), one under the other, plus bias [width] and add
// [rows, width] where they are given: out [rows, width], in fp32 if it is `wide`. `bits` is the width of the
// activations, 32 or 16.
EXPORT void linear(int set, int threads, int bits, int kind, long rows, long k, long parts, const long *sizes,
                   const void *const *weights, const void *x, const void *bias, const void *add, void *out, int wide) {
  (bits == 32 ? linear<float> : linear<bf16>)(set, threads, kind, rows, k, parts, sizes, weights, x, bias, add, out, wide);
}

template <class T>
static void mixture(int set, int threads, long rows, long top, long experts, long hidden, long inner, float limit,
                    const void *t, const int64_t *ids, const void *shares, const void *up, const void *up_scales,
                    const void *up_bias, const void *down, const void *down_scales, const void *down_bias,
                    const void *x, void *y) {
  long pairs = rows * top;
  std::vector<long> starts(experts + 1), order(pairs);
  for (long pair = 0; pair < pairs; pair++)
    starts[ids[pair] + 1]++;
  for (long n = 0; n < experts; n++)
    starts[n + 1] += starts[n];
  std::vector<long> next(starts);
  for (long pair = 0; pair < pairs; pair++)
    order[next[ids[pair]]++] = pair;

  Buffer act, t_buffer, act_buffer;
  char *activated = act.room(pairs * inner * sizeof(T));
  std::vector<const void *> in(pairs), out(pairs), in_bytes(pairs), out_bytes;
  for (long n = 0; n < pairs; n++) {
    in[n] = (const char *)t + order[n] / top * hidden * sizeof(T);
    out[n] = activated + order[n] * inner * sizeof(T);
  }
  std::vector<Chosen> chosen;
  auto few = [&](const std::vector<const void *> &bytes, long start, long count) {
    return sizeof(T) == 2 && count <= FEW ? bytes.data() + start : nullptr;
  };
  if (sizeof(T) == 2) {
    auto bytes = quantized<T>(set, threads, PACKED, hidden, addresses(t, rows, hidden * sizeof(T)), t_buffer);
    for (long n = 0; n < pairs; n++)
      in_bytes[n] = bytes[order[n] / top];
  }
  for (long n = 0; n < experts; n++)
    if (long start = starts[n], count = starts[n + 1] - start; count)
      chosen.push_back({n, &order[start], {count, &in[start], few(in_bytes, start, count)}, {count, &out[start], nullptr}});
  Experts all{rows, top, hidden, inner, (long)chosen.size(), limit, Matrix(PACKED, hidden, 0, up, up_scales),
              Matrix(PACKED, inner, 0, down, down_scales), up_bias, down_bias, shares, x, activated, y, chosen.data()};

  long tiles = tiles_of(2 * inner);
  auto up_kernel = CHOSEN(set, up_rows<T>);
  shared(threads, tiles * all.count, 1, tiles, [&](long first, long last) {
    while (first < last) {
      long n = first / tiles, start = first % tiles, count = std::min(last - first, tiles - start);
      long end = std::min((start + count) * TILE, 2 * inner);
      up_kernel(all, chosen[n], start * TILE, end, decoded.room(TILE * hidden * sizeof(T)));
      first += count;
    }
  });

  if (sizeof(T) == 2)
    out_bytes = quantized<T>(set, threads, PACKED, inner, out, act_buffer);
  for (auto &one : chosen)
    one.out.quantized = few(out_bytes, one.pairs - order.data(), one.out.count);
  auto down_kernel = CHOSEN(set, down_rows<T>);
  shared(threads, tiles_of(hidden), 1, std::max(SUMS / (rows * TILE), 1L), [&](long first, long last) {
    long from = first * TILE, to = std::min(last * TILE, hidden);
    down_kernel(all, from, to, decoded.room(TILE * inner * sizeof(T)),
                (float *)totals.room(rows * (to - from) * sizeof(float)));
  });
}

// The mixture of experts: t [rows, hidden] through the `top` experts ids [rows, top] of each row, weighted with
// shares [rows, top] and added to x: y [rows, hidden]. Weights are MXFP4: up [experts, 2 inner, hidden / 32, 16],
// down [experts, hidden, inner / 32, 16], scales and biases beside. In 32 bits the weights are exact and so are the
// activations; in 16 bits few rows of one expert are rounded to bytes.
EXPORT void mixture(int set, int threads, int bits, long rows, long top, long experts, long hidden, long inner, float limit,
                    const void *t, const int64_t *ids, const void *shares, const void *up, const void *up_scales,
                    const void *up_bias, const void *down, const void *down_scales, const void *down_bias,
                    const void *x, void *y) {
  (bits == 32 ? mixture<float> : mixture<bf16>)(set, threads, rows, top, experts, hidden, inner, limit, t, ids, shares,
                                                up, up_scales, up_bias, down, down_scales, down_bias, x, y);
}

template <class T>
static void norm(int set, int threads, long rows, long width, const void *x, const float *scale, void *out) {
  auto kernel = CHOSEN(set, norm<T>);
  shared(threads, rows, 16, 16, [&](long first, long last) {
    for (long row = first; row < last; row++)
      kernel(width, (const T *)x + row * width, scale, (T *)out + row * width);
  });
}

// Rows of x [rows, width], each divided by its root mean square and multiplied by `scale` [width] in fp32, and only
// then rounded.
EXPORT void norm(int set, int threads, int bits, long rows, long width, const void *x, const float *scale, void *out) {
  (bits == 32 ? norm<float> : norm<bf16>)(set, threads, rows, width, x, scale, out);
}

#include "attend.h"
