// Vectors of LANES floats for whatever the surrounding namespace is compiled for.
//
// Included once for each instruction set, inside a namespace of its own and under that set's compiler options,
// with LANES defined. Written in the vector extensions that GCC and Clang share, so that one source serves all
// sets; only what those cannot say is in the file of its set.

typedef float F __attribute__((vector_size(4 * LANES)));
typedef int32_t I __attribute__((vector_size(4 * LANES)));
typedef uint32_t U __attribute__((vector_size(4 * LANES)));
typedef uint16_t H __attribute__((vector_size(2 * LANES)));
typedef int8_t N __attribute__((vector_size(LANES)));

template <class V, class T> INLINE V load(const T *at) {
  static_assert(sizeof(V) % sizeof(T) == 0, "a vector of whole elements");
  V v;
  memcpy(&v, at, sizeof v);
  return v;
}

// The first `count` elements of a vector, zeros behind them. Reads nothing beyond.
template <class V, class T> INLINE V load_part(const T *at, long count) {
#if LANES == 16
  __mmask64 wanted = _bzhi_u64(~0ull, count * sizeof(T));
  __m512i bytes = _mm512_maskz_loadu_epi8(wanted, at);
  V v;
  memcpy(&v, &bytes, sizeof v);
#else
  V v = {};
  memcpy(&v, at, count * sizeof(T));
#endif
  return v;
}

template <class V, class T> INLINE void store(T *at, V v) { memcpy(at, &v, sizeof v); }

INLINE F splat(float value) { return F{} + value; }

INLINE F widen(H half) { return (F)(__builtin_convertvector(half, U) << 16); }

// LANES values of either type as fp32.
INLINE F load_float(const float *at) { return load<F>(at); }
INLINE F load_float(const bf16 *at) { return widen(load<H>(at)); }

// To the nearest bf16, ties to even; a NaN stays one.
INLINE H narrow(F value) {
  U bits = (U)value;
  U rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  U nan = (U)(value != value);
  return __builtin_convertvector((rounded & ~nan) | (nan & 0x7fc0), H);
}

INLINE void store_float(float *at, F value) { store(at, value); }
INLINE void store_float(bf16 *at, F value) { store(at, narrow(value)); }

typedef float Quarter __attribute__((vector_size(16)));

INLINE float sum(F v) {
  Quarter parts[LANES / 4], total = {};
  memcpy(parts, &v, sizeof v);
  for (int n = 0; n < LANES / 4; n++)
    total += parts[n];
  return (total[0] + total[2]) + (total[1] + total[3]);
}

INLINE F magnitude(F v) { return (F)((U)v & 0x7fffffff); }

// The larger and the smaller of two; a NaN in `a` is lost, one in `b` stays.
INLINE F larger(F a, F b) { return a > b ? a : b; }
INLINE F smaller(F a, F b) { return a < b ? a : b; }

INLINE float largest(F v) {
  Quarter parts[LANES / 4];
  memcpy(parts, &v, sizeof v);
  for (int n = 1; n < LANES / 4; n++)
    parts[0] = parts[0] > parts[n] ? parts[0] : parts[n];
  float first = parts[0][0] > parts[0][1] ? parts[0][0] : parts[0][1];
  float second = parts[0][2] > parts[0][3] ? parts[0][2] : parts[0][3];
  return first > second ? first : second;
}

// e^x within 2 units of the last place over the range of normal results; 0 below it, infinity above, NaN of NaN.
// Cody and Waite's reduction to |r| <= ln(2)/2, then the Taylor polynomial of degree 7.
INLINE F exponential(F x) {
  F bounded = smaller(splat(89.0f), larger(splat(-104.0f), x));
  F scaled = bounded * 1.44269504f;
  F whole = (scaled + 12582912.0f) - 12582912.0f;
  F r = bounded - whole * 0.693359375f;
  r = r - whole * -2.12194440e-4f;
  F p = splat(1.0f / 5040);
  p = p * r + 1.0f / 720;
  p = p * r + 1.0f / 120;
  p = p * r + 1.0f / 24;
  p = p * r + 1.0f / 6;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  // In two steps, for 2^128 and the powers below 2^-126 are no floats of their own.
  I power = __builtin_convertvector(whole, I), half = power >> 1;
  return p * (F)((half + 127) << 23) * (F)((power - half + 127) << 23);
}
