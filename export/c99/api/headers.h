/* Headers of safetensors files: enough JSON to find entries by name in one, and nothing that could read beyond its end.
 *
 * Needs memory.h. */

/* Some of a header. */
typedef struct {
    const char *at, *end;
} text_t;

enum { DEEPEST = 8 };

static void skip_space(text_t *text)
{
    while (text->at < text->end && (*text->at == ' ' || *text->at == '\t' || *text->at == '\n' || *text->at == '\r'))
        text->at++;
}

/* Take one character, after white space. */
static int take_char(text_t *text, char wanted)
{
    skip_space(text);
    if (text->at == text->end || *text->at != wanted)
        return 0;
    text->at++;
    return 1;
}

/* Take a string; what is between its quotes, with escapes as they are. */
static int take_string(text_t *text, text_t *inside)
{
    if (!take_char(text, '"'))
        return 0;
    inside->at = text->at;
    for (; text->at < text->end; text->at++) {
        if (*text->at == '"') {
            inside->end = text->at++;
            return 1;
        }
        if (*text->at == '\\' && text->at + 1 < text->end)
            text->at++;
    }
    return 0;
}

static int take_value(text_t *text, int depth);

/* Take what is between brackets of an object or a list. */
static int take_entries(text_t *text, int is_object, int depth)
{
    const char close = is_object ? '}' : ']';
    text_t name;
    if (take_char(text, close))
        return 1;
    do {
        if (is_object && !(take_string(text, &name) && take_char(text, ':')))
            return 0;
        if (!take_value(text, depth))
            return 0;
    } while (take_char(text, ','));
    return take_char(text, close);
}

/* Take any value. */
static int take_value(text_t *text, int depth)
{
    text_t inside;
    const char *begin;
    skip_space(text);
    if (text->at == text->end || depth == DEEPEST)
        return 0;
    if (*text->at == '"')
        return take_string(text, &inside);
    if (*text->at == '{' || *text->at == '[') {
        const int is_object = *text->at++ == '{';
        return take_entries(text, is_object, depth + 1);
    }
    begin = text->at;
    while (text->at < text->end && strchr(",]} \t\r\n", *text->at) == NULL)
        text->at++;
    return text->at > begin;
}

static int is_word(text_t text, const char *word)
{
    return (size_t)(text.end - text.at) == strlen(word) && memcmp(text.at, word, strlen(word)) == 0;
}

/* The value of an object's entry; `entries`: how many there are, where that is wanted. 0: it is not there, or no object. */
static int find_entry(text_t object, const char *name, text_t *value, int32_t *entries)
{
    int found = 0;
    text_t word, here;
    if (entries != NULL)
        *entries = 0;
    if (!take_char(&object, '{') || take_char(&object, '}'))
        return 0;
    do {
        if (!take_string(&object, &word) || !take_char(&object, ':'))
            return 0;
        skip_space(&object);
        here.at = object.at;
        if (!take_value(&object, 0))
            return 0;
        here.end = object.at;
        if (is_word(word, name)) {
            *value = here;
            found++;
        }
        if (entries != NULL)
            ++*entries;
    } while (take_char(&object, ','));
    return take_char(&object, '}') && found == 1;
}

/* Take a whole number. */
static int take_number(text_t *text, uint64_t *number)
{
    const char *begin;
    skip_space(text);
    begin = text->at;
    for (*number = 0; text->at < text->end && *text->at >= '0' && *text->at <= '9'; text->at++) {
        if (*number > (UINT64_MAX - 9) / 10)
            return 0;
        *number = 10 * *number + (uint64_t)(*text->at - '0');
    }
    return text->at > begin;
}

/* Whether an entry is this string. */
static int has_string(text_t object, const char *name, const char *wanted)
{
    text_t value, inside;
    return find_entry(object, name, &value, NULL) && take_string(&value, &inside) && is_word(inside, wanted);
}

/* Whether an entry is the list of these numbers. */
static int has_numbers(text_t object, const char *name, const uint64_t *wanted, int count)
{
    text_t value;
    uint64_t number;
    if (!find_entry(object, name, &value, NULL) || !take_char(&value, '['))
        return 0;
    for (int i = 0; i < count; i++)
        if ((i > 0 && !take_char(&value, ',')) || !take_number(&value, &number) || number != wanted[i])
            return 0;
    return take_char(&value, ']');
}
