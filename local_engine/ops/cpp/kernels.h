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
  for (; at < k; at += COUNT) {
    long count = k - at < COUNT ? k - at : COUNT;
    for (int c = 0; c < C; c++)
      for (int r = 0; r < R; r++)
        total[0][r][c] = add_products(total[0][r][c], load_part<V>(w + r * stride + at, count),
                                      load_part<V>(x[c] + at, count));
  }
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
template <class T> INLINE float quantize_group(const T *x, long count, int8_t *out) {
  T values[GROUP] = {};
  memcpy(values, x, count * sizeof(T));
  F most = {}, finite = {};
  for (int n = 0; n < GROUP; n += LANES) {
    F v = load_float(values + n);
    most = larger(most, magnitude(v));
    finite += v * 0.0f;
  }
  float step = largest(most) / 127 + sum(finite);
  float inverse = step > 0 ? 1 / step : 0;
  for (int n = 0; n < GROUP; n += LANES) {
    // Adding 1.5 * 2^23 leaves the nearest integer in the low bits.
    U bits = (U)(load_float(values + n) * inverse + 12582912.0f);
    store(out + n, __builtin_convertvector(bits, N));
  }
  return step;
}

template <class T> static void quantize(long k, const T *x, PackedPiece *out) {
  for (long at = 0; at < k; at += GROUP) {
    long group = at / GROUP, inside = group % (LANES / 4);
    PackedPiece &piece = out[group / (LANES / 4)];
    int8_t values[GROUP];
    float step = quantize_group(x + at, k - at < GROUP ? k - at : GROUP, values);
    int8_t *low = piece.low + 16 * inside, *high = piece.high + 16 * inside;
    for (int n = 0; n < 16; n++) {
      low[n] = values[2 * n];
      high[n] = values[2 * n + 1];
    }
    for (int n = 0; n < 4; n++) {
      int total = 0;
      for (int m = 4 * n; m < 4 * n + 4; m++)
        total += low[m] + high[m];
      piece.scale[4 * inside + n] = step / 2;
      piece.start[4 * inside + n] = -CODE_BIAS * total;
    }
  }
}

template <class T> static void quantize(long k, const T *x, BytePiece *out) {
  for (long at = 0; at < k; at += GROUP) {
    int8_t values[GROUP];
    float step = quantize_group(x + at, k - at < GROUP ? k - at : GROUP, values);
    for (int n = 0; n < GROUP; n += 4) {
      BytePiece &piece = out[(at + n) / BYTES];
      int inside = (at + n) % BYTES;
      memcpy(piece.values + inside, values + n, 4);
      piece.scale[inside / 4] = step;
      piece.start[inside / 4] = -BYTE_BIAS * (values[n] + values[n + 1] + values[n + 2] + values[n + 3]);
    }
  }
}

// One row of MXFP4, blocks [groups, 16] and scales [groups], with C rows: out[c * ld].
template <int C>
INLINE void packed_row(long groups, const uint8_t *blocks, const uint8_t *scales, const PackedPiece *const *x,
                       float *out, long ld) {
  constexpr long STEP = LANES / 4;
  F total[C] = {};
  long at = 0;
  for (; at < groups; at += STEP) {
    B bytes;
    F scale;
    if (at + STEP <= groups) {
      __builtin_prefetch((const char *)blocks + 16 * at + AHEAD);
      bytes = load<B>(blocks + 16 * at);
      scale = group_scales(scales + at, STEP);
    } else {
      bytes = load_part<B>(blocks + 16 * at, 16 * (groups - at));
      scale = group_scales(scales + at, groups - at);
    }
    B low = codes(bytes & 15), high = codes(bytes >> 4);
    for (int c = 0; c < C; c++) {
      const PackedPiece &piece = x[c][at / STEP];
      I found = group_products(load<I>(piece.start), low, high, load<S>(piece.low), load<S>(piece.high));
      total[c] += __builtin_convertvector(found, F) * (scale * load<F>(piece.scale));
    }
  }
  for (int c = 0; c < C; c++)
    out[c * ld] = sum(total[c]);
}

// Scales of the groups in a piece of int8, one for every eight lanes.
INLINE F byte_scales(const bf16 *scales, long piece) {
#if LANES == 16
  uint32_t two;
  memcpy(&two, scales + 2 * piece, sizeof two);
  const U shifts = {16, 16, 16, 16, 16, 16, 16, 16};
  return (F)(((U{} + two) << shifts) & 0xffff0000);
#else
  return splat(one_float(scales[piece * BYTES / GROUP]));
#endif
}

// One row of int8, 32 values a group and behind them each group's scale, with C rows: out[c * ld].
template <int C>
INLINE void byte_row(long groups, const uint8_t *row, const BytePiece *const *x, float *out, long ld) {
  const bf16 *scales = (const bf16 *)(row + GROUP * groups);
  long pieces = GROUP * groups / BYTES;
  F total[C] = {};
  for (long at = 0; at < pieces; at++) {
    __builtin_prefetch((const char *)row + BYTES * at + AHEAD);
    S w = load<S>(row + BYTES * at);
    F scale = byte_scales(scales, at);
    for (int c = 0; c < C; c++) {
      const BytePiece &piece = x[c][at];
      I found = signed_products(load<I>(piece.start), w, load<S>(piece.values));
      total[c] += __builtin_convertvector(found, F) * (scale * load<F>(piece.scale));
    }
  }
  for (long at = pieces * BYTES; at < GROUP * groups; at += GROUP) {
    S w = load_part<S>(row + at, GROUP);
    F scale = splat(one_float(scales[at / GROUP]));
    for (int c = 0; c < C; c++) {
      const BytePiece &piece = x[c][pieces];
      I found = signed_products(load<I>(piece.start), w, load<S>(piece.values));
      total[c] += __builtin_convertvector(found, F) * (scale * load<F>(piece.scale));
    }
  }
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
