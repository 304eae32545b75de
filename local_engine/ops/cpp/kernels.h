// Kernels over weights. Included once for each instruction set, see cpu.cpp.

#include "simd.h"

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
