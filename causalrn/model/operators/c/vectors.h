/* Vectors of Real, as wide as the processor's and at least four lanes; and the sums over the lanes of four at once. */

#if defined(__AVX512F__)
#define LANES (USE_DOUBLE ? 8 : 16)
#elif defined(__AVX__)
#define LANES (USE_DOUBLE ? 4 : 8)
#else
#define LANES 4
#endif
#define GROUP 4 /* keys at a time */
#define MEAN_SQUARE_FLOOR ((Real)1e-30)
#define INLINE static inline __attribute__((always_inline))

typedef Real Vector __attribute__((vector_size(LANES * sizeof(Real))));
typedef Bits Integers __attribute__((vector_size(LANES * sizeof(Real))));
typedef Real Four __attribute__((vector_size(GROUP * sizeof(Real))));

INLINE Vector load(const Real *from) {
  Vector out;
  memcpy(&out, from, sizeof out);
  return out;
}

INLINE void store(Real *to, Vector value) { memcpy(to, &value, sizeof value); }

INLINE Vector all(Real value) { return value - (Vector){0}; } /* x - 0 keeps the sign of zero */

/* Lane by lane; `which` comes from a comparison. */
INLINE Vector choose(Integers which, Vector yes, Vector no) {
  return (Vector)((which & (Integers)yes) | (~which & (Integers)no));
}
#define WHERE(condition, yes, no) choose((Integers)(condition), yes, no)

#if defined(__clang__) || __GNUC__ >= 12
/* Four lanes out of each quarter of a and b: 0 .. 3 are a's, 4 .. 7 b's. */
#define LANE(quarter, i) (4 * (quarter) + (i) % 4 + (i) / 4 * LANES)
#define QUARTER(quarter, i, j, k, l) LANE(quarter, i), LANE(quarter, j), LANE(quarter, k), LANE(quarter, l)
#if LANES == 4
#define SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, QUARTER(0, __VA_ARGS__))
#elif LANES == 8
#define SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, QUARTER(0, __VA_ARGS__), QUARTER(1, __VA_ARGS__))
#else
#define SHUFFLE(a, b, ...)                                                                   \
  __builtin_shufflevector(a, b, QUARTER(0, __VA_ARGS__), QUARTER(1, __VA_ARGS__),            \
                          QUARTER(2, __VA_ARGS__), QUARTER(3, __VA_ARGS__))
#endif
INLINE Four sum_lanes(const Vector value[GROUP]) {
  Vector ab = SHUFFLE(value[0], value[1], 0, 4, 2, 6) + SHUFFLE(value[0], value[1], 1, 5, 3, 7);
  Vector cd = SHUFFLE(value[2], value[3], 0, 4, 2, 6) + SHUFFLE(value[2], value[3], 1, 5, 3, 7);
  Vector sums = SHUFFLE(ab, cd, 0, 1, 4, 5) + SHUFFLE(ab, cd, 2, 3, 6, 7); /* each quarter has part of all four */
  Four part[LANES / GROUP];
  memcpy(part, &sums, sizeof part);
  for (int i = 1; i < LANES / GROUP; i++) part[0] += part[i];
  return part[0];
}
#else /* older compilers have no such shuffle */
INLINE Four sum_lanes(const Vector value[GROUP]) {
  Four out = {0};
  for (int j = 0; j < GROUP; j++)
    for (int lane = 0; lane < LANES; lane++) out[j] += value[j][lane];
  return out;
}
#endif
