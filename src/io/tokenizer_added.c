/* tokenizer_added.c: added tokens: read, and found in a text before anything else looks at it. */
#include "io/tokenizer.h"

#include <string.h>
#include <utf8proc.h>

/* Of one token, since a search may follow it from every byte of a text; of all, in the finder. */
enum { TOKEN_MOST = 1024, NODES_MOST = 1 << 22 };

static mf_status read_token(const mf_reading *at, const json_t *entry, mf_added_token *out) {
    MF_TRY(mf_json_text(at, entry, "content", &out->text));
    MF_TRY(mf_json_id(at, json_object_get(entry, "id"), out->text, &out->id));
    MF_TRY(mf_json_flag(at, entry, "special", false, &out->special));
    MF_TRY(mf_json_flag(at, entry, "lstrip", false, &out->left));
    MF_TRY(mf_json_flag(at, entry, "rstrip", false, &out->right));
    MF_TRY(mf_json_flag(at, entry, "single_word", false, &out->single));
    return mf_json_flag(at, entry, "normalized", !out->special, &out->normalized);
}

mf_status mf_added_read(const mf_reading *at, const json_t *list, mf_added *out) {
    size_t i, count = json_array_size(list);
    const json_t *entry;
    if (!list || json_is_null(list)) return MF_OK;
    if (!json_is_array(list) || count > MF_TOKENIZER_IDS)
        return MF_FAIL(MF_EFORMAT, "%s: %s are no list of tokens", at->path, at->part);
    MF_TRY(mf_host_alloc(count, sizeof *out->token, &out->token));
    json_array_foreach(list, i, entry) {
        MF_TRY(read_token(at, entry, &out->token[out->count]));
        if (*out->token[out->count].text) out->count++; /* the reference passes over nameless ones, too */
    }
    return MF_OK;
}

void mf_added_free(mf_added *added) {
    mf_finder *const finder[] = {&added->plain, &added->normalized};
    for (int i = 0; i < 2; i++) {
        mf_pair_table_free(&finder[i]->edges);
        mf_host_free(finder[i]->token);
    }
    mf_host_free(added->token);
    *added = (mf_added){0};
}

static mf_status add_node(mf_finder *finder) {
    if (finder->nodes == NODES_MOST)
        return MF_FAIL(MF_EUNSUPPORTED, "with it they have more than %d bytes, which is not supported",
                       NODES_MOST);
    MF_TRY(mf_grow(&finder->token, finder->nodes, &finder->room, 1, sizeof *finder->token));
    finder->token[finder->nodes++] = -1;
    return MF_OK;
}

mf_status mf_finder_add(mf_finder *finder, const void *text, size_t bytes, int token) {
    const uint8_t *byte = text;
    uint32_t node = 0;
    if (!bytes) return MF_OK;
    if (bytes > TOKEN_MOST)
        return MF_FAIL(MF_EUNSUPPORTED, "%zu bytes; at most %d are supported", bytes, TOKEN_MOST);
    if (!finder->edges.slot) MF_TRY(mf_pair_table_make(64, &finder->edges));
    if (!finder->nodes) MF_TRY(add_node(finder));
    finder->begins[byte[0]] = true;
    for (size_t i = 0; i < bytes; i++) {
        const mf_pair_slot *edge = mf_pair_table_find(&finder->edges, node, byte[i]);
        if (edge) {
            node = edge->then;
            continue;
        }
        uint32_t next = (uint32_t)finder->nodes;
        MF_TRY(add_node(finder));
        MF_TRY(mf_pair_table_put(&finder->edges, node, byte[i], 0, next));
        node = next;
    }
    finder->token[node] = token;
    return MF_OK;
}

/* The longest token that begins at text: its index and, in *length, its bytes; -1: none does. */
static int longest(const mf_finder *finder, const uint8_t *text, size_t bytes, size_t *length) {
    int found = -1;
    uint32_t node = 0;
    for (size_t i = 0; i < bytes; i++) {
        const mf_pair_slot *edge = mf_pair_table_find(&finder->edges, node, text[i]);
        if (!edge) break;
        node = edge->then;
        if (finder->token[node] < 0) continue;
        found = finder->token[node];
        *length = i + 1;
    }
    return found;
}

/* \w of Rust's regex crate: alphabetic, marks, decimal digits, connectors, joiners. */
static bool is_word(uint32_t point) {
    switch (utf8proc_category((int32_t)point)) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_PC:
        return true;
    default:
        break;
    }
    return point == 0x200c || point == 0x200d || (point >= 0x24b6 && point <= 0x24e9) ||
           (point >= 0x1f130 && point <= 0x1f149) || (point >= 0x1f150 && point <= 0x1f169) ||
           (point >= 0x1f170 && point <= 0x1f189);
}

static bool stands_alone(const mf_added_walk *walk, size_t begin, size_t end) {
    if (begin > 0 && is_word(mf_utf8_point(walk->text + mf_utf8_last(walk->text, begin)))) return false;
    return end == walk->bytes || !is_word(mf_utf8_point(walk->text + end));
}

/* Neither looks again at space that the last token has taken: a token may itself be a space, and all of the
 * text be such tokens. */
static size_t skip_space_left(const mf_added_walk *walk, size_t from) {
    while (from > walk->done) {
        size_t last = mf_utf8_last(walk->text, from);
        if (!mf_utf8_is_space(mf_utf8_point(walk->text + last))) break;
        from = last;
    }
    return from;
}

static size_t skip_space_right(const mf_added_walk *walk, size_t from) {
    if (from < walk->done) from = walk->done;
    while (from < walk->bytes && mf_utf8_is_space(mf_utf8_point(walk->text + from)))
        from += (size_t)mf_utf8_width(walk->text[from]);
    return from;
}

/* A token that is passed over still hides what else begins inside it, as in the reference. */
void mf_added_next(const mf_added *added, const mf_finder *finder, mf_added_walk *walk) {
    walk->token = NULL;
    while (finder->nodes && walk->at < walk->bytes) {
        size_t at = walk->at, length = 0;
        int index =
            finder->begins[walk->text[at]] ? longest(finder, walk->text + at, walk->bytes - at, &length) : -1;
        walk->at += index < 0 ? 1 : length;
        if (index < 0) continue;
        const mf_added_token *token = &added->token[index];
        if (walk->special_as_text && token->special) continue;
        if (token->single && !stands_alone(walk, at, at + length)) continue;
        walk->begin = at;
        walk->end = at + length;
        if (token->left) walk->begin = skip_space_left(walk, at);
        if (token->right) walk->end = skip_space_right(walk, walk->end);
        walk->token = token;
        return;
    }
}
