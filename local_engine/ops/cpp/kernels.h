// Products of activations with weights. Included once for each instruction set, see cpu.cpp.

#include "simd.h"
#include "dots.h"

// Weights [R, k] as floats, R rows `stride` apart, with C rows of x: out[c * ld + r]. SPLIT sums side by side, so
// that one addition need not wait for the last.
template <class T, int R, int C, int SPLIT>
static void float_tile(long k, const T *w, long stride, const T *const *x, float *out, long ld) {
  typedef typename Piece<T>::V V;
  constexpr long COUNT = Piece<T>::COUNT;
  F total[SPLIT][R][C] = {};
  long at = 0;
  for (; at + SPLIT * COUNT <= k; at += SPLIT * COUNT)
    for (int s = 0; s < SPLIT; s++) {
      const T *piece = w + at + s * COUNT;
      if (R == 1)
        __builtin_prefetch((const char *)piece + AHEAD);
      V ws[R];
      for (int r = 0; r < R; r++)
        ws[r] = load<V>(piece + r * stride);
      for (int c = 0; c < C; c++) {
        V xs = load<V>(x[c] + at + s * COUNT);
        for (int r = 0; r < R; r++)
          total[s][r][c] = add_products(total[s][r][c], ws[r], xs);
      }
    }
  for (; at + COUNT <= k; at += COUNT)
    for (int c = 0; c < C; c++)
      for (int r = 0; r < R; r++)
        total[0][r][c] = add_products(total[0][r][c], load<V>(w + r * stride + at), load<V>(x[c] + at));
  if (at < k)
    for (int c = 0; c < C; c++)
      for (int r = 0; r < R; r++)
        total[0][r][c] = add_products(total[0][r][c], load_part<V>(w + r * stride + at, k - at),
                                      load_part<V>(x[c] + at, k - at));
  for (int c = 0; c < C; c++)
    for (int r = 0; r < R; r++) {
      for (int s = 1; s < SPLIT; s++)
        total[0][r][c] += total[s][r][c];
      out[c * ld + r] = sum(total[0][r][c]);
    }
}

// R rows of weights with any number of rows of x.
template <class T, int R, int C>
static void float_strip(long k, const T *w, long stride, long columns, const T *const *x, float *out, long ld) {
  constexpr int SPLIT = R * C <= 4 ? 4 / (R * C) : 1;
  long c = 0;
  for (; c + C <= columns; c += C)
    float_tile<T, R, C, SPLIT>(k, w, stride, x + c, out + c * ld, ld);
  if constexpr (C > 1)
    float_strip<T, R, C / 2>(k, w, stride, columns - c, x + c, out + c * ld, ld);
}

// Any number of rows on both sides. As many sums at once as there are registers for.
template <class T>
static void float_products(long k, const T *w, long rows, long columns, const T *const *x, float *out, long ld) {
  constexpr int R = LANES == 16 ? 4 : 2, C = LANES == 16 ? 6 : 4;
  long r = 0;
  if (columns > FEW)
    for (; r + R <= rows; r += R)
      float_strip<T, R, C>(k, w + r * k, k, columns, x, out + r, ld);
  for (; r < rows; r++)
    float_strip<T, 1, 4>(k, w + r * k, k, columns, x, out + r, ld);
}

// What one piece of MXFP4 is multiplied with, and one of int8: activations as signed bytes, the scale of each
// lane's group, and what each lane's sum begins with. Codes stand for twice their value, hence half the scale.
struct PackedPiece {
  int8_t low[BYTES], high[BYTES];
  float scale[LANES];
  int32_t start[LANES];
};
struct BytePiece {
  int8_t values[BYTES];
  float scale[LANES];
  int32_t start[LANES];
};

// The largest magnitude of 32 values becomes 127. Returns the step, NaN if one of the values is not finite.
template <class T> INLINE float quantize_group(const T *x, int8_t *out) {
  F most = {}, finite = {};
  for (int n = 0; n < GROUP; n += LANES) {
    F v = load_float(x + n);
    most = larger(most, magnitude(v));
    finite += v * 0.0f;
  }
  float step = largest(most) / 127 + sum(finite);
  float inverse = step > 0 ? 1 / step : 0;
  for (int n = 0; n < GROUP; n += LANES) {
    // Adding 1.5 * 2^23 leaves the nearest integer in the low bits.
    U bits = (U)(load_float(x + n) * inverse + 12582912.0f);
    store(out + n, __builtin_convertvector(bits, N));
  }
  return step;
}

// The sum of the four signed bytes in each lane.
INLINE I lane_sums(const int8_t *bytes) {
  const U lanes = load<U>(bytes);
  return ((I)(lanes << 24) >> 24) + ((I)(lanes << 16) >> 24) + ((I)(lanes << 8) >> 24) + ((I)lanes >> 24);
}

// k activations in groups of 32, the last filled up with zeros: `each(group, bytes, step)`.
template <class T, class Each> INLINE void each_group(long k, const T *x, const Each &each) {
  int8_t bytes[GROUP];
  long whole = k / GROUP;
  for (long group = 0; group < whole; group++)
    each(group, bytes, quantize_group(x + group * GROUP, bytes));
  if (k % GROUP) {
    T rest[GROUP] = {};
    memcpy(rest, x + whole * GROUP, k % GROUP * sizeof(T));
    each(whole, bytes, quantize_group(rest, bytes));
  }
}

struct IntoPacked {
  PackedPiece *out;
  void operator()(long group, const int8_t *bytes, float step) const {
    typedef uint16_t Pairs __attribute__((vector_size(32)));
    typedef uint8_t Half __attribute__((vector_size(16)));
    PackedPiece &piece = out[group / (LANES / 4)];
    long inside = group % (LANES / 4);
    Pairs pairs;
    memcpy(&pairs, bytes, sizeof pairs);
    store(piece.low + 16 * inside, __builtin_convertvector(pairs & 255, Half));
    store(piece.high + 16 * inside, __builtin_convertvector(pairs >> 8, Half));
    store(piece.scale + 4 * inside, Quarter{} + step / 2);
  }
};

template <class T> static void quantize(long k, const T *x, PackedPiece *out) {
  each_group(k, x, IntoPacked{out});
  for (long at = 0; at < k; at += 2 * BYTES, out++)
    store(out->start, (lane_sums(out->low) + lane_sums(out->high)) * -CODE_BIAS);
}

struct IntoBytes {
  BytePiece *out;
  void operator()(long group, const int8_t *bytes, float step) const {
    for (int n = 0; n < GROUP; n += 16) {
      BytePiece &piece = out[(group * GROUP + n) / BYTES];
      long inside = (group * GROUP + n) % BYTES;
      memcpy(piece.values + inside, bytes + n, 16);
      store(piece.scale + inside / 4, Quarter{} + step);
    }
  }
};

template <class T> static void quantize(long k, const T *x, BytePiece *out) {
  each_group(k, x, IntoBytes{out});
  for (long at = 0; at < (k + GROUP - 1) / GROUP * GROUP; at += BYTES, out++)
    store(out->start, lane_sums(out->values) * -BYTE_BIAS);
}

template <int C> INLINE void packed_step(B bytes, F scale, const PackedPiece *const *x, long at, F *total) {
  const B low = codes(bytes & 15), high = codes(bytes >> 4);
  for (int c = 0; c < C; c++) {
    const PackedPiece &piece = x[c][at];
    const I found = group_products(load<I>(piece.start), low, high, load<S>(piece.low), load<S>(piece.high));
    total[c] += __builtin_convertvector(found, F) * (scale * load<F>(piece.scale));
  }
}

// One row of MXFP4, blocks [groups, 16] and scales [groups], with C rows: out[c * ld].
template <int C>
INLINE void packed_row(long groups, const uint8_t *blocks, const uint8_t *scales, const PackedPiece *const *rows,
                       float *out, long ld) {
  constexpr long STEP = LANES / 4;
  const PackedPiece *x[C];
  for (int c = 0; c < C; c++)
    x[c] = rows[c];
  F total[C] = {};
  const long pieces = groups / STEP, rest = groups % STEP;
  for (long at = 0; at < pieces; at++) {
    const uint8_t *block = blocks + BYTES * at;
    __builtin_prefetch((const char *)block + AHEAD);
    packed_step<C>(load<B>(block), group_scales(scales + STEP * at, STEP), x, at, total);
  }
  if (rest)
    packed_step<C>(load_part<B>(blocks + BYTES * pieces, 16 * rest), group_scales(scales + STEP * pieces, rest), x,
                   pieces, total);
  for (int c = 0; c < C; c++)
    out[c * ld] = sum(total[c]);
}

INLINE float half_scale(const uint8_t *scales, long group) {
  bf16 scale;
  memcpy(&scale, scales + 2 * group, sizeof scale);
  return one_float(scale);
}

// Scales of the groups in a piece of int8, one for every eight lanes.
INLINE F byte_scales(const uint8_t *scales, long piece) {
#if LANES == 16
  uint32_t two;
  memcpy(&two, scales + 4 * piece, sizeof two);
  const U shifts = {16, 16, 16, 16, 16, 16, 16, 16};
  return (F)(((U{} + two) << shifts) & 0xffff0000);
#else
  return splat(half_scale(scales, piece * BYTES / GROUP));
#endif
}

template <int C> INLINE void byte_step(S w, F scale, const BytePiece *const *x, long at, F *total) {
  for (int c = 0; c < C; c++) {
    const BytePiece &piece = x[c][at];
    const I found = signed_products(load<I>(piece.start), w, load<S>(piece.values));
    total[c] += __builtin_convertvector(found, F) * (scale * load<F>(piece.scale));
  }
}

// One row of int8, 32 values a group and behind them each group's scale, with C rows: out[c * ld].
template <int C>
INLINE void byte_row(long groups, const uint8_t *row, const BytePiece *const *rows, float *out, long ld) {
  const long pieces = GROUP * groups / BYTES;
  const uint8_t *scales = row + GROUP * groups;
  const BytePiece *x[C];
  for (int c = 0; c < C; c++)
    x[c] = rows[c];
  F total[C] = {};
  for (long at = 0; at < pieces; at++) {
    const uint8_t *values = row + BYTES * at;
    __builtin_prefetch((const char *)values + AHEAD);
    byte_step<C>(load<S>(values), byte_scales(scales, at), x, at, total);
  }
  if (GROUP * groups % BYTES)
    byte_step<C>(load_part<S>(row + BYTES * pieces, GROUP), splat(half_scale(scales, groups - 1)), x, pieces, total);
  for (int c = 0; c < C; c++)
    out[c * ld] = sum(total[c]);
}

// One row: divided by its root mean square (epsilon 1e-5) and scaled in fp32, then rounded.
template <class T> static void norm(long width, const T *x, const float *scale, T *out) {
  F squares = {};
  long at = 0;
  for (; at + LANES <= width; at += LANES) {
    F v = load_float(x + at);
    squares += v * v;
  }
  float total = sum(squares);
  for (long rest = at; rest < width; rest++) {
    float v = one_float(x[rest]);
    total += v * v;
  }
  float factor = 1.0f / sqrtf(total / width + 1e-5f);
  for (at = 0; at + LANES <= width; at += LANES)
    store_float(out + at, load_float(x + at) * factor * load<F>(scale + at));
  for (; at < width; at++)
    put_float(out + at, one_float(x[at]) * factor * scale[at]);
}
