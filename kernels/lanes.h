// As many values at a time as a register holds, float32 or bfloat16 in memory and float32 in between, in GNU C's vectors.
// Included by set.h, in the namespace of an instruction set.

constexpr int64_t kLanes = LANES;
constexpr int64_t kRegisters = REGISTERS;

typedef float Lanes __attribute__((vector_size(kLanes * sizeof(float))));
typedef int32_t Ints __attribute__((vector_size(kLanes * sizeof(int32_t))));
typedef uint32_t Words __attribute__((vector_size(kLanes * sizeof(uint32_t))));
typedef uint16_t Halves __attribute__((vector_size(kLanes * sizeof(uint16_t))));

INLINE Lanes load(const float* from) {
  Lanes values;
  memcpy(&values, from, sizeof values);
  return values;
}

INLINE Lanes load(const uint16_t* from) {
  Halves upper;
  memcpy(&upper, from, sizeof upper);
  const Words whole = __builtin_convertvector(upper, Words) << 16;  // bfloat16 is the upper half of float32
  return (Lanes)whole;
}

INLINE void store(float* to, Lanes values) { memcpy(to, &values, sizeof values); }

INLINE void store(uint16_t* to, Lanes values) {  // to the nearest, ties to even; no number stays none
  const Words whole = (Words)values;
  const Words nearest = (whole + 0x7fff + ((whole >> 16) & 1)) >> 16;
  const Words none = Words{} + 0x7fc0;
  const Halves upper = __builtin_convertvector(values == values ? nearest : none, Halves);
  memcpy(to, &upper, sizeof upper);
}

// Up to as many values as there are lanes; what is missing is zero.
template <typename Stored>
INLINE Lanes load(const Stored* from, int64_t many) {
  if (many >= kLanes) return load(from);
  Stored some[kLanes] = {};
  memcpy(some, from, many * sizeof(Stored));
  return load(some);
}

template <typename Stored>
INLINE void store(Stored* to, Lanes values, int64_t many) {
  if (many >= kLanes) return store(to, values);
  Stored some[kLanes];
  store(some, values);
  memcpy(to, some, many * sizeof(Stored));
}

INLINE float single(const float* from) { return *from; }

INLINE float single(const uint16_t* from) {
  const uint32_t whole = static_cast<uint32_t>(*from) << 16;
  float value;
  memcpy(&value, &whole, sizeof value);
  return value;
}

INLINE float sum(Lanes values) {
  float total = 0;
  for (int i = 0; i < kLanes; ++i) total += values[i];
  return total;
}

// e^x to the last bit or two: 2^n times a polynomial on [-ln 2 / 2, ln 2 / 2] (Cephes' coefficients).
INLINE Lanes exponential(Lanes x) {
  x = x < -87.3f ? Lanes{} - 87.3f : x;
  x = x > 88.3f ? Lanes{} + 88.3f : x;
  const Lanes n = (x * 1.44269504f + 12582912.f) - 12582912.f;
  const Lanes f = x - n * 0.693359375f + n * 2.12194440e-4f;
  Lanes p = f * 1.9875691500e-4f + 1.3981999507e-3f;
  p = p * f + 8.3334519073e-3f;
  p = p * f + 4.1665795894e-2f;
  p = p * f + 1.6666665459e-1f;
  p = p * f + 5.0000001201e-1f;
  p = p * f * f + f + 1.0f;
  const Ints power = (__builtin_convertvector(n, Ints) + 127) << 23;
  return p * (Lanes)power;
}

INLINE Lanes sigmoid(Lanes x) { return 1.0f / (1.0f + exponential(-x)); }
