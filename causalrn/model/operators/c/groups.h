/* One query against four keys. Rows are `vectors` * LANES wide; channels beyond the width are zeros in all of them. */

typedef struct {
  const Real *key[GROUP];
  Real *gradient[GROUP]; /* of the keys, in a backward pass */
  Four weight;           /* 1, or 0 for a key that the query does not read */
} Group;

typedef struct {
  int64_t vectors;
  Real width, eps;
} Channels;

INLINE Four at_least(Four value, Real least) {
  Four out = {0};
  for (int j = 0; j < GROUP; j++) out[j] = value[j] < least ? least : value[j];
  return out;
}

INLINE Four roots(Four value) {
  Four out = {0};
  for (int j = 0; j < GROUP; j++) out[j] = USE_DOUBLE ? (Real)sqrt(value[j]) : (Real)sqrtf((float)value[j]);
  return out;
}

/* 1 / (root of the mean square + eps) of four pairs; NaN where a mean square overflows; 1 without a norm. */
INLINE Four scale_of(const Real *query, const Group *keys, Channels channels) {
  if (!NORMALIZED) return (Four){1, 1, 1, 1};
  Vector squares[GROUP] = {{0}};
  for (int64_t v = 0; v < channels.vectors; v++) {
    Vector q = load(query + v * LANES);
#pragma GCC unroll 4
    for (int j = 0; j < GROUP; j++) {
      Vector pair = q + load(keys->key[j] + v * LANES);
      squares[j] += pair * pair;
    }
  }
  Four mean = sum_lanes(squares) / channels.width;
  return 1 / (roots(channels.eps == 0 ? at_least(mean, MEAN_SQUARE_FLOOR) : mean) + channels.eps) + 0 * mean;
}

/* What f's argument is a pair times; 0 for a key that is not read, whose f must be finite to have no weight. */
INLINE Four argument_scale(const Group *keys, Four scale) {
  return keys->weight * (ACTIVATION == EXP ? scale * LOG2_E : scale);
}

/* Adds what a query reads of four keys to its row of the result. */
INLINE void read_group(const Real *query, Real *out, const Group *keys, Four scale, Channels channels, int bounded) {
  const Four weight = keys->weight + 0 * scale; /* where a mean square overflows the result is NaN */
  const Four argument = argument_scale(keys, scale);
  for (int64_t v = 0; v < channels.vectors; v++) {
    Vector q = load(query + v * LANES), sum = load(out + v * LANES);
#pragma GCC unroll 4
    for (int j = 0; j < GROUP; j++) {
      Vector pair = q + load(keys->key[j] + v * LANES);
      sum += all(weight[j]) * value_at(pair, all(argument[j]), bounded);
    }
    store(out + v * LANES, sum);
  }
}

/* f'(pair * scale) * gradient of the result, [GROUP, vectors * LANES], and what of it lies along the pairs n / scale:

   with g = f'(n) * gradient of the result, the gradient of a pair is (g - n mean(g n) (rms + eps) / rms) * scale, where
   1 - eps * scale is rms / (rms + eps). Gives mean(g n) * scale times the ratio; 0 without a norm. */
INLINE Four slopes_of_group(const Real *query, const Real *gradient_out, Real *slopes, const Group *keys, Four scale,
                            Channels channels, int bounded) {
  const Four argument = argument_scale(keys, scale);
  Vector products[GROUP] = {{0}};
  for (int64_t v = 0; v < channels.vectors; v++) {
    Vector q = load(query + v * LANES), gradient = load(gradient_out + v * LANES);
#pragma GCC unroll 4
    for (int j = 0; j < GROUP; j++) {
      Vector pair = q + load(keys->key[j] + v * LANES);
      Vector slope = gradient * slope_at(pair, all(argument[j]), bounded);
      if (NORMALIZED) products[j] += slope * pair;
      store(slopes + (j * channels.vectors + v) * LANES, slope);
    }
  }
  if (!NORMALIZED) return (Four){0};
  const Four along = sum_lanes(products) * scale * scale / channels.width;
  return channels.eps == 0 ? along : along / at_least(1 - channels.eps * scale, MEAN_SQUARE_FLOOR);
}

/* Adds to the gradients of a query and of four keys. */
INLINE void gradients_of_group(const Real *query, Real *gradient_query, const Real *slopes, const Group *keys, Four scale,
                               Four along, Channels channels) {
  const Four weight = keys->weight * scale;
  for (int64_t v = 0; v < channels.vectors; v++) {
    Vector q = load(query + v * LANES), sum = load(gradient_query + v * LANES);
#pragma GCC unroll 4
    for (int j = 0; j < GROUP; j++) {
      Vector gradient = load(slopes + (j * channels.vectors + v) * LANES);
      if (NORMALIZED) gradient -= all(along[j]) * (q + load(keys->key[j] + v * LANES));
      gradient *= all(weight[j]);
      sum += gradient;
      Real *gradient_key = keys->gradient[j] + v * LANES;
      store(gradient_key, load(gradient_key) + gradient);
    }
    store(gradient_query + v * LANES, sum);
  }
}
