// Attention over paged keys and values. Included once for each instruction set, see cpu.cpp.
//
// A lane belongs to a query, all queries of a tile that one key/value head serves lie side by side, and keys are
// broadcast to them: nothing is ever summed across lanes, a key is read once for all of them, and no query's result
// depends on its neighbours. Where queries are few, two lanes share one: the even lane has the even units of its
// dimension, the odd lane the odd ones. Shares are powers of two relative to the largest score so far (Milakov and
// Gimelshein, arXiv:1805.02867); the sink joins at the end.

constexpr int AT_ONCE = LANES == 16 ? 16 : 8; // independent sums, enough to hide an instruction's latency
constexpr float LOWEST = -3.0e38f;

typedef uint64_t Twos __attribute__((vector_size(4 * LANES)));

// 2^x for x <= 0, within 2e-7 of its value; 0 below 2^-126, NaN of NaN.
INLINE F power_of_two(F x) {
  // Adding and taking away 1.5 * 2^23 rounds to a whole number, whose bits end up at the bottom.
  const F shifted = x + 12582912.0f, r = x - (shifted - 12582912.0f);
  // Least squares over |r| <= 1/2, weighted by 1 / 2^r.
  F p = splat(1.5353362e-4f);
  p = p * r + 1.3398874e-3f;
  p = p * r + 9.6184373e-3f;
  p = p * r + 5.5503324e-2f;
  p = p * r + 2.4022648e-1f;
  p = p * r + 6.9314720e-1f;
  p = p * r + 1.0f;
  const F scaled = (F)((I)p + ((I)shifted << 23));
  return x < -126.0f ? F{} : x == x ? scaled : x;
}

// The sums of one key/value head's queries. `EACH` lanes a query; `lanes` is a multiple of LANES. A unit is a float,
// or two bf16 where there is an instruction for them.
template <class T, int EACH> struct Hearing {
  static constexpr bool PAIRS = sizeof(T) == 2 && LANES == 16;
  long lanes, dim;
  float *q;              // [units / EACH, lanes]
  float *heard;          // [dim / EACH, lanes], to be divided by the sum of shares
  float *most, *sum;     // [lanes], the largest score, in units of log2
  int32_t *after, *upto; // [lanes], a query sees positions after < j <= upto
};

// EACH units, for every query.
template <int EACH> INLINE F spread(const float *at) {
  if constexpr (EACH == 2) {
    uint64_t both;
    memcpy(&both, at, sizeof both);
    return (F)(Twos{} + both);
  } else {
    uint32_t one;
    memcpy(&one, at, sizeof one);
    return (F)(U{} + one);
  }
}

template <bool PAIRS> INLINE F add_units(F total, F a, F b) {
  if constexpr (PAIRS)
    return add_products(total, (U)a, (U)b);
  else
    return add_products(total, a, b);
}

#if LANES == 16
// Two rows of floats as bf16, those of `even` in the low halves.
INLINE F braided(F even, F odd) {
  const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21, 5,
                                         20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
  return (F)_mm512_permutexvar_epi16(order, (__m512i)_mm512_cvtne2ps_pbh((__m512)odd, (__m512)even));
}
#endif

// Scores [BLOCK, lanes] of a block's keys, `stride` units apart.
template <class T, int EACH>
static void score(const Hearing<T, EACH> &h, const float *keys, long stride, float *scores) {
  constexpr bool PAIRS = Hearing<T, EACH>::PAIRS;
  const long steps = h.dim / (PAIRS ? 2 : 1) / EACH;
  for (long l = 0; l < h.lanes; l += LANES)
    for (long key = 0; key < BLOCK; key += AT_ONCE) {
      F totals[AT_ONCE] = {};
      const float *at = keys + key * stride, *q = h.q + l;
      for (long step = 0; step < steps; step++, at += EACH, q += h.lanes) {
        const F own = load<F>(q);
#pragma GCC unroll 16
        for (int n = 0; n < AT_ONCE; n++)
          totals[n] = add_units<PAIRS>(totals[n], spread<EACH>(at + n * stride), own);
      }
#pragma GCC unroll 16
      for (int n = 0; n < AT_ONCE; n++) {
        if constexpr (EACH == 2)
          totals[n] += (F)((Twos)totals[n] << 32 | (Twos)totals[n] >> 32);
        store(scores + (key + n) * h.lanes + l, totals[n]);
      }
    }
}

// Turns the scores of keys at positions j, j + 1, ... into shares, and `fade` [lanes] into what earlier sums are
// multiplied with. With PAIRS two keys' shares lie in one unit. `edge`: not everybody sees everything.
template <class T, int EACH>
static void share(const Hearing<T, EACH> &h, float *scores, float scale, bool edge, int32_t j, float *fade) {
  for (long l = 0; l < h.lanes; l += LANES) {
    F x[BLOCK];
    const F before = load<F>(h.most + l);
    const I after = load<I>(h.after + l), upto = load<I>(h.upto + l);
    F most = before;
#pragma GCC unroll 16
    for (int key = 0; key < BLOCK; key++) {
      x[key] = load<F>(scores + key * h.lanes + l) * scale;
      if (edge)
        x[key] = (after < j + key) & (upto >= j + key) ? x[key] : splat(-INFINITY);
      most = larger(x[key], most);
    }
    const F less = power_of_two(before - most);
    F sum = load<F>(h.sum + l) * less;
#pragma GCC unroll 16
    for (int key = 0; key < BLOCK; key++) {
      x[key] = power_of_two(x[key] - most);
      sum += x[key];
    }
    store(h.most + l, most);
    store(h.sum + l, sum);
    store(fade + l, less);
#if LANES == 16
    if constexpr (Hearing<T, EACH>::PAIRS) {
      for (int key = 0; key < BLOCK; key += 2)
        store(scores + key / 2 * h.lanes + l, braided(x[key], x[key + 1]));
      continue;
    }
#endif
    for (int key = 0; key < BLOCK; key++)
      store(scores + key * h.lanes + l, x[key]);
  }
}

// N dimensions' worth of `listen`, from `step` on, for the queries of one vector.
template <class T, int EACH, int N>
INLINE void listen_to(const Hearing<T, EACH> &h, long l, long step, const float *values, long stride,
                      const float *shares, long count, F fade) {
  float *heard = h.heard + step * h.lanes + l;
  F totals[N];
#pragma GCC unroll 16
  for (int n = 0; n < N; n++)
    totals[n] = load<F>(heard + n * h.lanes) * fade;
  for (long key = 0; key < count; key++) {
    const F own = load<F>(shares + key * h.lanes + l);
    const float *at = values + key * stride + step * EACH;
#pragma GCC unroll 16
    for (int n = 0; n < N; n++)
      totals[n] = add_units<Hearing<T, EACH>::PAIRS>(totals[n], spread<EACH>(at + n * EACH), own);
  }
#pragma GCC unroll 16
  for (int n = 0; n < N; n++)
    store(heard + n * h.lanes, totals[n]);
}

// Adds what `count` keys say, values [count, dim] `stride` apart, to what was heard before, faded.
template <class T, int EACH>
static void listen(const Hearing<T, EACH> &h, const float *values, long stride, const float *shares, long count,
                   const float *fade) {
  for (long l = 0; l < h.lanes; l += LANES) {
    const F less = load<F>(fade + l);
    long step = 0;
    for (; step + AT_ONCE <= h.dim / EACH; step += AT_ONCE)
      listen_to<T, EACH, AT_ONCE>(h, l, step, values, stride, shares, count, less);
    for (; step < h.dim / EACH; step++)
      listen_to<T, EACH, 1>(h, l, step, values, stride, shares, count, less);
  }
}

// A block's values with those of two keys in one unit, the even one's in the low half; zeros outside of
// from .. upto - 1. A share of zero does not silence a NaN, which a block's last owner may have left there.
INLINE void braid(const bf16 *values, long stride, long from, long upto, long dim, float *out) {
  for (long key = 0; key < BLOCK; key += 2, out += dim) {
    const bf16 *even = values + key * stride, *odd = even + stride;
    const uint32_t low = key >= from && key < upto ? 0xffff : 0;
    const uint32_t high = key + 1 >= from && key + 1 < upto ? 0xffff0000 : 0;
    for (long d = 0; d < dim; d++) {
      const uint32_t both = (even[d] & low) | ((uint32_t)odd[d] << 16 & high);
      memcpy(out + d, &both, sizeof both);
    }
  }
}

INLINE void widen_rows(const bf16 *rows, long stride, long count, long dim, float *out) {
  for (long row = 0; row < count; row++)
    for (long d = 0; d < dim; d++)
      out[row * dim + d] = one_float(rows[row * stride + d]);
}

// Floats of scratch that `hear` takes for `queries` queries a head.
static long hearing_room(long queries, long heads, long dim) {
  const long lanes = (2 * queries + LANES - 1) / LANES * LANES;
  return 2 * BLOCK * dim + lanes * (BLOCK + 3 + heads * (2 * dim + 2)) + 16 * (6 + 4 * heads);
}

template <class T, int EACH>
static void hear(const Paged &a, const Tile &tile, const Part &part, float *kept, float *scratch) {
  typedef Hearing<T, EACH> Head;
  constexpr bool PAIRS = Head::PAIRS;
  const long group = a.heads / a.kv_heads, dim = a.dim, queries = tile.rows * group;
  const long lanes = (queries * EACH + LANES - 1) / LANES * LANES;
  auto take = [&](long count) {
    float *at = scratch;
    scratch += (count + 15) / 16 * 16;
    return at;
  };
  float *keys = take(BLOCK * dim), *values = take(BLOCK * dim), *scores = take(BLOCK * lanes), *fade = take(lanes);
  int32_t *after = (int32_t *)take(lanes), *upto = (int32_t *)take(lanes);
  const long begin = a.positions[tile.row], end = begin + tile.rows - 1;
  for (long l = 0; l < lanes; l++) {
    const long at = std::min(begin + l / EACH / group, end);
    upto[l] = (int32_t)at;
    after[l] = (int32_t)(a.window ? at - a.window : -1);
  }
  // Query number i of a head is its number i % group of row i / group.
  auto place = [&](long head, long query) {
    return ((tile.row + query / group) * a.heads + head * group + query % group) * dim;
  };
  std::vector<Head> hearing;
  for (long head = part.head; head < part.head + part.heads; head++) {
    const long units = dim / (PAIRS ? 2 : 1);
    Head h = {lanes, dim, take(units / EACH * lanes), take(dim / EACH * lanes), take(lanes), take(lanes), after, upto};
    std::fill_n(h.q, units / EACH * lanes, 0.0f);
    std::fill_n(h.heard, dim / EACH * lanes, 0.0f);
    std::fill_n(h.most, lanes, LOWEST);
    std::fill_n(h.sum, lanes, 0.0f);
    for (long query = 0; query < queries; query++) {
      const T *q = (const T *)a.q + place(head, query);
      for (long unit = 0; unit < units; unit++) {
        float *at = h.q + unit / EACH * lanes + query * EACH + unit % EACH;
        if constexpr (PAIRS)
          memcpy(at, q + 2 * unit, sizeof *at);
        else
          *at = one_float(q[unit]);
      }
    }
    hearing.push_back(h);
  }

  const float scale = LOG2_E / sqrtf((float)dim);
  const long sequence = a.sequence[tile.row], stride = a.kv_heads * dim;
  const int64_t *table = a.tables + sequence * a.columns - a.base[sequence];
  for (long block = part.first; block < part.last; block++) {
    const long j = block * BLOCK, next = block + 1 < part.last ? block + 1 : block;
    const long from = a.window ? std::max(0L, begin - (long)a.window + 1 - j) : 0;
    const long seen = std::min(BLOCK, end + 1 - j);
    const bool edge = j + BLOCK - 1 > begin || (a.window && j <= end - a.window);
    for (long n = 0; n < part.heads; n++) {
      const Head &h = hearing[n];
      const T *pools[2] = {(const T *)a.keys, (const T *)a.values};
      for (const T *&pool : pools) {
        pool += (part.head + n) * dim;
        const T *soon = pool + table[next] * BLOCK * stride;
        for (long key = 0; key < BLOCK; key++)
          for (long d = 0; d < dim; d += 64 / (long)sizeof(T))
            __builtin_prefetch(soon + key * stride + d, 0, 2);
        pool += table[block] * BLOCK * stride;
      }
      if constexpr (PAIRS) {
        score(h, (const float *)pools[0], stride / 2, scores);
        share(h, scores, scale, edge, (int32_t)j, fade);
        braid((const bf16 *)pools[1], stride, from, seen, dim, values);
        listen(h, values, dim, scores, BLOCK / 2, fade);
      } else {
        const float *k = (const float *)pools[0], *v = (const float *)pools[1];
        long apart = stride;
        if constexpr (sizeof(T) == 2) {
          widen_rows(pools[0], stride, BLOCK, dim, keys);
          widen_rows(pools[1], stride, BLOCK, dim, values);
          k = keys, v = values, apart = dim;
        }
        score(h, k, apart, scores);
        share(h, scores, scale, edge, (int32_t)j, fade);
        listen(h, v + from * apart, apart, scores + from * lanes, seen - from, fade);
      }
    }
  }

  for (long n = 0; n < part.heads; n++) {
    const Head &h = hearing[n];
    for (long query = 0; query < queries; query++) {
      const long head = (part.head + n) * group + query % group, l = query * EACH;
      auto heard = [&](long d) { return h.heard[d / EACH * lanes + l + d % EACH]; };
      if (part.kept >= 0) {
        float *sums = kept + (part.kept * a.heads + head) * (dim + 2);
        sums[0] = h.most[l], sums[1] = h.sum[l];
        for (long d = 0; d < dim; d++)
          sums[2 + d] = heard(d);
        continue;
      }
      const float sink = LOG2_E * one_float(((const T *)a.sinks)[head]), most = std::max(h.most[l], sink);
      const float own = exp2f(h.most[l] - most), total = h.sum[l] * own + exp2f(sink - most);
      T *out = (T *)a.heard + place(part.head + n, query);
      for (long d = 0; d < dim; d++)
        put_float(out + d, heard(d) * own / total);
    }
  }
}

// One head of a row whose context was cut: its parts' sums, in their order, and the sink.
template <class T> static void join(const Paged &a, const Joint &joint, long head, const float *kept) {
  const long dim = a.dim, stride = a.heads * (dim + 2);
  const float *sums = kept + joint.kept * stride + head * (dim + 2);
  const float sink = LOG2_E * one_float(((const T *)a.sinks)[head]);
  float most = sink;
  for (long part = 0; part < joint.parts; part++)
    most = std::max(most, sums[part * stride]);
  float shares[MOST_PARTS], total = exp2f(sink - most);
  for (long part = 0; part < joint.parts; part++) {
    shares[part] = exp2f(sums[part * stride] - most);
    total += sums[part * stride + 1] * shares[part];
  }
  T *out = (T *)a.heard + (joint.row * a.heads + head) * dim;
  for (long d = 0; d < dim; d++) {
    float heard = 0;
    for (long part = 0; part < joint.parts; part++)
      heard += sums[part * stride + 2 + d] * shares[part];
    put_float(out + d, heard / total);
  }
}

// One part of the work; `scratch` holds `hearing_room` floats.
template <class T>
static void attend(const Paged &a, const Tile &tile, const Part &part, float *kept, float *scratch) {
  const long units = a.dim / (Hearing<T, 1>::PAIRS ? 2 : 1);
  if (2 * tile.rows * a.heads / a.kv_heads <= LANES && units % 2 == 0 && a.dim % 2 == 0)
    hear<T, 2>(a, tile, part, kept, scratch);
  else
    hear<T, 1>(a, tile, part, kept, scratch);
}
