// What happens to a row between products: rotation, and the router's choice. Included once for each instruction set,
// see cpu.cpp.

// Rotates one head: pair i is (i, i + half), cos and sin [half] are the position's. In fp32, then rounded.
template <class T> static void rotate_head(long half, const T *x, const T *cos, const T *sin, T *out) {
  long i = 0;
  for (; i + LANES <= half; i += LANES) {
    const F a = load_float(x + i), b = load_float(x + half + i), c = load_float(cos + i), s = load_float(sin + i);
    store_float(out + i, a * c - b * s);
    store_float(out + half + i, b * c + a * s);
  }
  for (; i < half; i++) {
    const float a = one_float(x[i]), b = one_float(x[half + i]), c = one_float(cos[i]), s = one_float(sin[i]);
    put_float(out + i, a * c - b * s);
    put_float(out + half + i, b * c + a * s);
  }
}

// One row of a projection [heads + 2 kv_heads, dim]: queries rotated to `q`, keys rotated and values as they are to
// their slot's `keys` and `values` [kv_heads, dim].
template <class T>
static void rotate(long heads, long kv_heads, long dim, const T *row, const T *cos, const T *sin, T *q, T *keys,
                   T *values) {
  for (long head = 0; head < heads; head++)
    rotate_head(dim / 2, row + head * dim, cos, sin, q + head * dim);
  row += heads * dim;
  for (long head = 0; head < kv_heads; head++)
    rotate_head(dim / 2, row + head * dim, cos, sin, keys + head * dim);
  memcpy(values, row + kv_heads * dim, kv_heads * dim * sizeof(T));
}

// The `top` largest of a row's logits, the largest first, and the softmax over those. The first of equals; a NaN
// counts as largest, as in torch.
template <class T> static void choose(long experts, long top, const T *logits, int64_t *ids, T *weights) {
  auto above = [&](long a, long b) {
    const float x = one_float(logits[a]), y = one_float(logits[b]);
    return x > y || (x != x && y == y);
  };
  for (long n = 0; n < top; n++) {
    long best = -1;
    for (long expert = 0; expert < experts; expert++)
      if (std::find(ids, ids + n, expert) == ids + n && (best < 0 || above(expert, best)))
        best = expert;
    ids[n] = best;
  }
  const float most = one_float(logits[ids[0]]);
  float total = 0;
  for (long n = 0; n < top; n++)
    total += expf(one_float(logits[ids[n]]) - most);
  for (long n = 0; n < top; n++)
    put_float(weights + n, expf(one_float(logits[ids[n]]) - most) / total);
}
