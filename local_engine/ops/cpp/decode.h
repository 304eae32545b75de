// Packed weights as floats. Included once for each instruction set, see cpu.cpp.

// 2^(scale - 127), as `mxfp4.decode` has it: 255 is infinity.
INLINE float power_of(uint8_t scale) {
  uint32_t bits = scale ? (uint32_t)scale << 23 : 0x00400000;
  float factor;
  memcpy(&factor, &bits, sizeof factor);
  return factor;
}

template <class T> INLINE void decode_group(const uint8_t *block, float factor, T *out) {
  static const float magnitudes[16] = {0, .5, 1, 1.5, 2, 3, 4, 6, -0.0f, -.5, -1, -1.5, -2, -3, -4, -6};
  float values[GROUP];
  for (int n = 0; n < 16; n++) {
    values[2 * n] = magnitudes[block[n] & 15];
    values[2 * n + 1] = magnitudes[block[n] >> 4];
  }
  for (int n = 0; n < GROUP; n += LANES)
    store_float(out + n, load<F>(values + n) * factor);
}

// One row of MXFP4, blocks [groups, 16] and scales [groups].
template <class T> INLINE void decode_packed(long groups, const uint8_t *blocks, const uint8_t *scales, T *out) {
  for (long group = 0; group < groups; group++, blocks += 16, out += GROUP) {
    uint8_t scale = scales[group];
#if LANES == 16
    // Where the exponent has room, the scale is added to it: a power of two rounds nothing.
    if (sizeof(T) == 2 && scale >= 2 && scale <= 252) {
      const __m512i table = _mm512_castsi256_si512(_mm256_setr_epi16(
          0, 0x3f00, 0x3f80, 0x3fc0, 0x4000, 0x4040, 0x4080, 0x40c0, (short)0x8000, (short)0xbf00, (short)0xbf80,
          (short)0xbfc0, (short)0xc000, (short)0xc040, (short)0xc080, (short)0xc0c0));
      __m512i bytes = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)blocks));
      __m512i places = _mm512_and_si512(_mm512_or_si512(bytes, _mm512_slli_epi32(bytes, 12)), _mm512_set1_epi32(0x000f000f));
      __m512i values = _mm512_permutexvar_epi16(places, table);
      __mmask32 nonzero = _mm512_test_epi16_mask(values, _mm512_set1_epi16(0x7fff));
      __m512i exponents = _mm512_set1_epi16((short)((scale - 127) * 128));
      _mm512_storeu_si512(out, _mm512_mask_add_epi16(values, nonzero, values, exponents));
      continue;
    }
#endif
    decode_group(blocks, power_of(scale), out);
  }
}

// One row of int8: 32 values a group, and behind them each group's scale. The last group may be cut short.
template <class T> INLINE void decode_bytes(long k, const uint8_t *row, T *out) {
  long groups = (k + GROUP - 1) / GROUP;
  for (long at = 0; at < k; at++)
    put_float(out + at, (float)(int8_t)row[at] * half_scale(row + GROUP * groups, at / GROUP));
}
