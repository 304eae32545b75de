// Dot products of weights with rows of activations: the steps that instruction sets differ in.
//
// A piece is what one load of weights takes: LANES floats, 2 LANES bf16, or BYTES bytes of codes. Sums are in
// fp32, and a step adds to LANES of them at a time.

constexpr int BYTES = 4 * LANES;
typedef uint8_t B __attribute__((vector_size(BYTES)));
typedef int8_t S __attribute__((vector_size(BYTES)));

template <class T> struct Piece;
template <> struct Piece<float> {
  typedef F V;
  static constexpr int COUNT = LANES;
};
template <> struct Piece<bf16> {
  typedef U V; // of two: the even one in the low half
  static constexpr int COUNT = 2 * LANES;
};

INLINE F add_products(F total, F w, F x) { return total + w * x; }

#if LANES == 16
INLINE F add_products(F total, U w, U x) {
  return (F)_mm512_dpbf16_ps((__m512)total, (__m512bh)(__m512i)w, (__m512bh)(__m512i)x);
}
#else
INLINE F add_products(F total, U w, U x) {
  total += (F)(w << 16) * (F)(x << 16);
  return total + (F)(w & 0xffff0000) * (F)(x & 0xffff0000);
}
#endif

// MXFP4 codes as integers of twice their value (0, 1, 2, 3, 4, 6, 8, 12 and those below zero), plus CODE_BIAS
// where the instruction wants them unsigned. `group_products` adds to four lanes what a group of 16 bytes, low
// and high nibbles apart, makes with activations in the same order.
//
// `signed_products` adds products of signed bytes: four lanes for 16 of them. Where one factor has to be
// unsigned, 128 times the sum of each four activations is taken off beforehand: BYTE_BIAS.

#if LANES == 16
constexpr int CODE_BIAS = 12, BYTE_BIAS = 128;

INLINE B codes(B nibbles) {
  const __m512i table = _mm512_broadcast_i32x4(_mm_setr_epi8(12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0));
  return (B)_mm512_shuffle_epi8(table, (__m512i)nibbles);
}

INLINE I group_products(I total, B low, B high, S x_low, S x_high) {
  __m512i half = _mm512_dpbusd_epi32((__m512i)total, (__m512i)low, (__m512i)x_low);
  return (I)_mm512_dpbusd_epi32(half, (__m512i)high, (__m512i)x_high);
}

INLINE I signed_products(I total, S w, S x) {
  return (I)_mm512_dpbusd_epi32((__m512i)total, (__m512i)(w ^ (int8_t)-128), (__m512i)x);
}

#elif LANES == 8
constexpr int CODE_BIAS = 12, BYTE_BIAS = 0;

INLINE B codes(B nibbles) {
  const __m256i table = _mm256_broadcastsi128_si256(
      _mm_setr_epi8(12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0));
  return (B)_mm256_shuffle_epi8(table, (__m256i)nibbles);
}

INLINE I group_products(I total, B low, B high, S x_low, S x_high) {
  // At most 4 * 24 * 127, which 16 bits hold.
  __m256i pairs = _mm256_add_epi16(_mm256_maddubs_epi16((__m256i)low, (__m256i)x_low),
                                   _mm256_maddubs_epi16((__m256i)high, (__m256i)x_high));
  return total + (I)_mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
}

INLINE I signed_products(I total, S w, S x) {
  __m256i signs = _mm256_sign_epi8((__m256i)x, (__m256i)w);
  __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8((__m256i)w), signs);
  return total + (I)_mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
}

#else
constexpr int CODE_BIAS = 0, BYTE_BIAS = 0;

INLINE B codes(B nibbles) {
#if defined(__aarch64__)
  const int8x16_t table = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};
  return (B)vqtbl1q_s8(table, (uint8x16_t)nibbles);
#else
  static const int8_t table[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};
  B found;
  for (int n = 0; n < BYTES; n++)
    found[n] = (uint8_t)table[nibbles[n]];
  return found;
#endif
}

INLINE I signed_products(I total, S w, S x) {
#if defined(WITH_DOT)
  return (I)vdotq_s32((int32x4_t)total, (int8x16_t)w, (int8x16_t)x);
#else
  typedef int16_t Wide __attribute__((vector_size(2 * BYTES)));
  Wide products = __builtin_convertvector(w, Wide) * __builtin_convertvector(x, Wide);
  for (int n = 0; n < BYTES; n++)
    total[n / 4] += products[n];
  return total;
#endif
}

INLINE I group_products(I total, B low, B high, S x_low, S x_high) {
  return signed_products(signed_products(total, (S)low, x_low), (S)high, x_high);
}
#endif

// A byte of scale for every four lanes: the power of two that it stands for. 0 gives 0, for 2^-127, and 255 infinity.
INLINE F group_scales(const uint8_t *scales, long count) {
#if LANES == 16
  const __m512i spread = _mm512_set_epi8(
      3, -1, -1, -1, 3, -1, -1, -1, 3, -1, -1, -1, 3, -1, -1, -1, 2, -1, -1, -1, 2, -1, -1, -1, 2, -1, -1, -1, 2, -1,
      -1, -1, 1, -1, -1, -1, 1, -1, -1, -1, 1, -1, -1, -1, 1, -1, -1, -1, 0, -1, -1, -1, 0, -1, -1, -1, 0, -1, -1, -1,
      0, -1, -1, -1);
  uint32_t four = 0;
  if (count == 4)
    memcpy(&four, scales, 4);
  else
    for (long n = 0; n < count; n++)
      four |= (uint32_t)scales[n] << 8 * n;
  return (F)_mm512_srli_epi32(_mm512_shuffle_epi8(_mm512_set1_epi32((int)four), spread), 1);
#else
  U bits;
  for (int n = 0; n < LANES; n++)
    bits[n] = n / 4 < count ? scales[n / 4] : 0;
  return (F)(bits << 23);
#endif
}
