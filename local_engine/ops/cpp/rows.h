// A range of a matrix's rows with all rows of activations, and what becomes of each result.
// Included once for each instruction set, see cpu.cpp.

template <int C> INLINE void quantized_row(const Matrix &m, long n, const void *const *x, float *out) {
  const uint8_t *row = m.values + n * m.row_bytes;
  if (m.kind == PACKED)
    packed_row<C>(m.groups(), row, m.scales + n * m.groups(), (const PackedPiece *const *)x, out, TILE);
  else
    byte_row<C>(m.groups(), row, (const BytePiece *const *)x, out, TILE);
}

// Packed weights with few rows of activations, both as signed bytes. One row of weights after the other: two at a
// time would share what they are multiplied with, but a single run is what memory gives fastest.
static void quantized_products(const Matrix &m, long first, long count, const Rows &rows, float *tile) {
  for (long r = 0; r < count; r++) {
    long c = 0;
    for (; c + 4 <= rows.count; c += 4)
      quantized_row<4>(m, first + r, rows.quantized + c, tile + c * TILE + r);
    for (; c + 2 <= rows.count; c += 2)
      quantized_row<2>(m, first + r, rows.quantized + c, tile + c * TILE + r);
    if (c < rows.count)
      quantized_row<1>(m, first + r, rows.quantized + c, tile + c * TILE + r);
  }
}

// Rows of the matrix as floats: where they are, or decoded into `room` [TILE, k].
template <class T> static const T *as_floats(const Matrix &m, long first, long count, T *room) {
  if (m.kind == FLOATS)
    return (const T *)(m.values + first * m.row_bytes);
  for (long r = 0; r < count; r++) {
    const uint8_t *row = m.values + (first + r) * m.row_bytes;
    if (m.kind == PACKED)
      decode_packed(m.groups(), row, m.scales + (first + r) * m.groups(), room + r * m.k);
    else
      decode_bytes(m.k, row, room + r * m.k);
  }
  return room;
}

// Hands tiles of products to `finish(first row of weights, their count, first row of x, their count, tile)`, tile
// [row of x, TILE].
template <class T, class Finish>
static void each_tile(const Matrix &m, long from, long to, const Rows &rows, T *room, const Finish &finish) {
  alignas(64) float tile[STRIP * TILE];
  for (long first = from; first < to; first += TILE) {
    long count = to - first < TILE ? to - first : TILE;
    if (rows.quantized) {
      quantized_products(m, first, count, rows, tile);
      finish(first, count, 0, rows.count, tile);
      continue;
    }
    const T *w = as_floats(m, first, count, room);
    for (long c = 0; c < rows.count; c += STRIP) {
      long strip = rows.count - c < STRIP ? rows.count - c : STRIP;
      float_products(m.k, w, count, strip, (const T *const *)rows.x + c, tile, TILE);
      finish(first, count, c, strip, tile);
    }
  }
}

// out = products + bias + add, in T or in fp32.
template <class T, class Out> struct Added {
  const Linear &linear;
  void operator()(long first, long count, long from, long strip, const float *tile) const {
    const T *bias = (const T *)linear.bias, *add = (const T *)linear.add;
    for (long c = 0; c < strip; c++) {
      long column = linear.start + first, at = (from + c) * linear.width + column;
      for (long r = 0; r < count; r++) {
        float value = tile[c * TILE + r];
        if (bias)
          value += one_float(bias[column + r]);
        if (add)
          value += one_float(add[at + r]);
        put_float((Out *)linear.out + at + r, value);
      }
    }
  }
};

template <class T> static void linear_rows(const Linear &linear, long from, long to, void *room) {
  if (linear.wide)
    each_tile(linear.weight, from, to, linear.rows, (T *)room, Added<T, float>{linear});
  else
    each_tile(linear.weight, from, to, linear.rows, (T *)room, Added<T, T>{linear});
}

// gate * sigmoid(1.702 gate) * (linear + 1), gates and linears interleaved in h [2 count]; the gate has no lower clamp.
template <class T> INLINE void swiglu(const float *h, long count, float limit, T *out) {
  for (long at = 0; at < count; at += LANES) {
    float gates[LANES] = {}, linears[LANES] = {};
    long some = count - at < LANES ? count - at : LANES;
    for (long n = 0; n < some; n++) {
      gates[n] = h[2 * (at + n)];
      linears[n] = h[2 * (at + n) + 1];
    }
    F gate = smaller(splat(limit), load<F>(gates));
    F linear = smaller(splat(limit), larger(splat(-limit), load<F>(linears)));
    T done[LANES];
    store_float(done, gate / (exponential(gate * -1.702f) + 1.0f) * (linear + 1.0f));
    memcpy(out + at, done, some * sizeof(T));
  }
}

// The first half of an expert: bias and swiglu, into row `pairs[c]` of `act` [pairs, inner].
template <class T> struct Activated {
  const Experts &experts;
  const Chosen &chosen;
  void operator()(long first, long count, long from, long strip, float *tile) const {
    const T *bias = (const T *)experts.up_bias + chosen.expert * 2 * experts.inner + first;
    for (long c = 0; c < strip; c++) {
      float *h = tile + c * TILE;
      for (long r = 0; r < count; r++)
        h[r] += one_float(bias[r]);
      T *act = (T *)experts.act + chosen.pairs[from + c] * experts.inner;
      swiglu(h, count / 2, experts.limit, act + first / 2);
    }
  }
};

template <class T> static void up_rows(const Experts &experts, const Chosen &chosen, long from, long to, void *room) {
  each_tile(experts.up.expert(chosen.expert, 2 * experts.inner), from, to, chosen.in, (T *)room,
            Activated<T>{experts, chosen});
}

// The second half: each row's experts weighted and added up in `total` [rows, to - from], in the order of their numbers.
template <class T> struct Weighted {
  const Experts &experts;
  const Chosen &chosen;
  long start, width;
  float *total;
  void operator()(long first, long count, long from, long strip, const float *tile) const {
    const T *bias = (const T *)experts.down_bias + chosen.expert * experts.hidden + first;
    for (long c = 0; c < strip; c++) {
      long pair = chosen.pairs[from + c];
      float share = one_float(((const T *)experts.shares)[pair]);
      float *sums = total + pair / experts.top * width + first - start;
      for (long r = 0; r < count; r++)
        sums[r] += share * (tile[c * TILE + r] + one_float(bias[r]));
    }
  }
};

template <class T> static void down_rows(const Experts &experts, long from, long to, void *room, float *total) {
  long width = to - from;
  memset(total, 0, experts.rows * width * sizeof(float));
  for (long n = 0; n < experts.count; n++) {
    const Chosen &chosen = experts.chosen[n];
    each_tile(experts.down.expert(chosen.expert, experts.hidden), from, to, chosen.out, (T *)room,
              Weighted<T>{experts, chosen, from, width, total});
  }
  for (long row = 0; row < experts.rows; row++)
    for (long n = 0; n < width; n++) {
      long at = row * experts.hidden + from + n;
      put_float((T *)experts.y + at, one_float(((const T *)experts.x)[at]) + total[row * width + n]);
    }
}

template <class T> static void quantize_rows(int kind, long k, const void *const *x, const void *const *out, long from, long to) {
  for (long row = from; row < to; row++)
    if (kind == PACKED)
      quantize(k, (const T *)x[row], (PackedPiece *)out[row]);
    else
      quantize(k, (const T *)x[row], (BytePiece *)out[row]);
}

// Bytes of one row of k quantized activations, whole groups of them.
INLINE long quantized_bytes(int kind, long k) {
  const long each = kind == PACKED ? 2 * BYTES : BYTES, values = (k + GROUP - 1) / GROUP * GROUP;
  return (values + each - 1) / each * (kind == PACKED ? sizeof(PackedPiece) : sizeof(BytePiece));
}
