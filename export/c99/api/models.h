/* Models: weights that are read, checked and kept.
 *
 * Needs memory.h. */

struct crn_model {
    causalrn_weights weights;
    void *file; /* NULL: compiled in */
    int kernel; /* by kernel_of and set_kernel alone: threads may change it while others open sessions */
};

enum { PER_BLOCK = CAUSALRN_TENSORS / CAUSALRN_BLOCKS };

/* Whether a tensor of the state holds a scale for every row of an int8 pool. */
static int is_scale(int index) { return CAUSALRN_POOL_BITS == 8 && index % PER_BLOCK == 1; }

/* Bytes of a state per position, where it has a pool. */
static size_t tensor_row_bytes(int index)
{
    return is_scale(index) ? sizeof(float) : CAUSALRN_HP * CAUSALRN_POOL_BITS / 8u;
}

static size_t row_bytes(void)
{
    size_t bytes = 0;
    for (int i = 0; i < CAUSALRN_TENSORS; i++)
        bytes += tensor_row_bytes(i);
    return bytes;
}

/* The kernel that a session of these weights would use. */
static int chosen_kernel(const causalrn_weights *weights, int wanted)
{
    causalrn_session session = {.weights = weights};
    return causalrn_choose_isa(&session, wanted);
}

static int kernel_of(const crn_model *model)
{
#if defined(__GNUC__)
    return __atomic_load_n(&model->kernel, __ATOMIC_RELAXED);
#else
    return *(const volatile int *)&model->kernel;
#endif
}

static void set_kernel(crn_model *model, int kernel)
{
#if defined(__GNUC__)
    __atomic_store_n(&model->kernel, kernel, __ATOMIC_RELAXED);
#else
    *(volatile int *)&model->kernel = kernel;
#endif
}

/* A model of weights that have been checked, and of the file that they lie in, if any, which becomes its own. */
static int make_model(const causalrn_weights *weights, void *file, crn_model **model)
{
    crn_model *made = calloc(1, sizeof *made);
    if (made == NULL)
        return CRN_NO_MEMORY;
    made->weights = *weights;
    made->file = file;
    made->kernel = chosen_kernel(weights, CRN_BEST);
    *model = made;
    return CRN_OK;
}

/* A model of a weights file, which becomes the model's own, whatever comes of it. */
static int keep_model(void *file, size_t size, crn_model **model)
{
    causalrn_weights weights;
    int code = causalrn_load(&weights, file, size);
    if (code == CRN_OK)
        code = make_model(&weights, file, model);
    if (code != CRN_OK)
        free_memory(file);
    return code;
}

static int open_file(const char *path, crn_model **model)
{
    void *file = NULL;
    size_t size = 0;
    const int code = read_file(path, CAUSALRN_FILE_BYTES, &file, &size);
    return code == CRN_OK ? keep_model(file, size, model) : code;
}

static int open_memory(const void *file, size_t size, crn_model **model)
{
    void *copy;
    if (size > CAUSALRN_FILE_BYTES) /* no file of this model: no need to copy it */
        return size >= 4 && memcmp(file, "CRNW", 4) == 0 ? CRN_WRONG_MODEL : CRN_NOT_WEIGHTS;
    copy = take_memory(size);
    if (copy == NULL)
        return CRN_NO_MEMORY;
    memcpy(copy, file, size);
    return keep_model(copy, size, model);
}

static int open_inline(crn_model **model)
{
#if CAUSALRN_WEIGHTS_INLINE
    causalrn_weights weights;
    const int code = causalrn_use(&weights, causalrn_payload);
    return code == CRN_OK ? make_model(&weights, NULL, model) : code;
#else
    (void)model;
    return CRN_NOT_INLINE;
#endif
}

static void close_model(crn_model *model)
{
    if (model != NULL)
        free_memory(model->file);
    free(model);
}

static int choose_kernel(crn_model *model, int kernel)
{
    const int chosen = chosen_kernel(&model->weights, kernel);
    set_kernel(model, chosen);
    return chosen;
}

static int describe_model(const crn_model *model, crn_info *info)
{
    static const char *const names[] = {"portable", "AVX2", "AVX-512"};
    const size_t size = info->size;
    const int kernel = kernel_of(model);
    crn_info all = {0};
    if (size < sizeof all.size)
        return CRN_TOO_SMALL;
    all.size = (uint32_t)size;
    all.model = CAUSALRN_MODEL;
    all.vocabulary = CAUSALRN_VOCABULARY;
    all.capacity = CAUSALRN_CAPACITY;
    all.blocks = CAUSALRN_BLOCKS;
    all.hidden = CAUSALRN_HIDDEN;
    all.has_pool = CAUSALRN_HAS_POOL;
    all.kernel = kernel;
    all.state_bytes = CAUSALRN_HAS_POOL ? 0 : CAUSALRN_STATE_BYTES(1, 1);
    all.position_bytes = CAUSALRN_HAS_POOL ? row_bytes() : 0;
    all.weights_bytes = CAUSALRN_FILE_BYTES;
    all.prefix = CAUSALRN_PREFIX;
    all.checkpoint = CAUSALRN_CHECKPOINT;
    all.arithmetic = CAUSALRN_ARITHMETIC;
    all.alphabet = CAUSALRN_ALPHABET;
    all.kernel_name = names[kernel];
    memcpy(info, &all, size < sizeof all ? size : sizeof all);
    return CRN_OK;
}
