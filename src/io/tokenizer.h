/* tokenizer.h: what was read of a tokenizer.json, part by part, and one encoder's scratch. A text's way:
 *
 *     made UTF-8 (tokenizer_encode.c), added tokens cut out of it (tokenizer_added.c), the rest normalized
 *     (tokenizer_normalize.c), added tokens cut out of that, the rest cut into words (tokenizer_split.c),
 * words into ids (tokenizer_bpe.c), special tokens around them; and back (tokenizer_decode.c). */
#ifndef MF_IO_TOKENIZER_H
#define MF_IO_TOKENIZER_H

#include "io/pattern.h"
#include "io/tables.h"
#include "meshfold/tokenizer.h"

#include <jansson.h>

enum {
    MF_TOKENIZER_STEPS = 16,      /* of normalizing, splitting, decoding: real ones have up to four */
    MF_TOKENIZER_IDS = 1 << 22,   /* ids are below it */
    MF_TOKENIZER_TEXT = INT32_MAX /* bytes of a text */
};

/* The most that a file's steps may make of so many bytes. None in use makes thirteen of one (NFKC of U+FDFA,
 * spaces as "▁"); sixteen replacements by ten bytes would fill any memory. */
static inline size_t mf_most_of(size_t bytes) { return 64 * bytes + 64; }

/* Where in the file something is, for errors. */
typedef struct mf_reading {
    const char *path, *part;
} mf_reading;

/* tokenizer_json.c: values that have the type they should. MF_EFORMAT names path, part and member. */
mf_status mf_json_text(const mf_reading *at, const json_t *object, const char *name, const char **out);
/* fallback where it is absent or null. */
mf_status mf_json_flag(const mf_reading *at, const json_t *object, const char *name, bool fallback,
                       bool *out);
mf_status mf_json_count(const mf_reading *at, const json_t *object, const char *name, size_t *out);
mf_status mf_json_id(const mf_reading *at, const json_t *value, const char *of, int32_t *out);
/* {"String": "x"} or {"Regex": "x"} */
mf_status mf_json_pattern(const mf_reading *at, const json_t *object, mf_pattern *out);
/* Calls `read` for a part that is there, or for each member of a Sequence's `list`. */
typedef mf_status (*mf_part_reader)(const mf_reading *at, const json_t *part, const char *type, void *out);
mf_status mf_json_parts(const mf_reading *at, const json_t *part, const char *list, mf_part_reader read,
                        void *out);
mf_status mf_json_refuse(const mf_reading *at, const char *type);

/* tokenizer_normalize.c */
typedef enum mf_normal_kind {
    MF_NORMAL_NFC,
    MF_NORMAL_NFD,
    MF_NORMAL_NFKC,
    MF_NORMAL_NFKD,
    MF_NORMAL_LOWERCASE,
    MF_NORMAL_PREPEND,
    MF_NORMAL_REPLACE,
    MF_NORMAL_STRIP
} mf_normal_kind;
typedef struct mf_normal_step {
    mf_normal_kind kind;
    mf_pattern pattern; /* replace */
    char *content;      /* replace, prepend: owned */
    bool left, right;   /* strip */
} mf_normal_step;
typedef struct mf_normalizer {
    mf_normal_step step[MF_TOKENIZER_STEPS];
    int count;
} mf_normalizer;
mf_status mf_normalizer_read(const mf_reading *at, const json_t *part, mf_normalizer *out);
void mf_normalizer_free(mf_normalizer *normalizer);
/* tokenizer_newer.c: the reference leaves it as it is. */
bool mf_normal_is_newer(uint32_t point);
/* A stretch of text on its way. */
typedef struct mf_stretch {
    const uint8_t *text;
    size_t bytes;
    bool first; /* it begins where the whole text began */
} mf_stretch;
typedef struct mf_normal_scratch {
    mf_bytes text[2];
    int32_t *points, *spare; /* the spare is for sorting */
    size_t point_room, spare_room;
} mf_normal_scratch;
void mf_normal_scratch_free(mf_normal_scratch *scratch);
/* *stretch points into the scratch afterwards, or where it did. MF_EUNSUPPORTED when it grows beyond
 * mf_most_of. */
mf_status mf_normalize(const mf_normalizer *normalizer, mf_matcher *matcher, mf_normal_scratch *scratch,
                       mf_stretch *stretch);

/* tokenizer_added.c */
typedef struct mf_added_token {
    int32_t id;
    bool special, left, right, single; /* strips white space to its left, right; is a whole word */
    bool normalized;
    const char *text; /* the JSON's: while it is read only */
} mf_added_token;
/* Finds the longest of its tokens that begins at a place: a trie of bytes. */
typedef struct mf_finder {
    mf_pair_table edges; /* (node, byte) to node */
    int32_t *token;      /* [room] of each node: index of the token that ends there, -1: none */
    size_t nodes, room;
    bool begins[256]; /* with this byte */
} mf_finder;
typedef struct mf_added {
    mf_added_token *token; /* [count] */
    int count;
    mf_finder plain, normalized; /* looked for in the text as it came, and as it was normalized */
} mf_added;
mf_status mf_added_read(const mf_reading *at, const json_t *list, mf_added *out);
mf_status mf_finder_add(mf_finder *finder, const void *text, size_t bytes, int token);
void mf_added_free(mf_added *added);
/* From token to token through a text. */
typedef struct mf_added_walk {
    const uint8_t *text;
    size_t bytes;
    bool special_as_text;
    size_t at, done;             /* where the search goes on; where the last token ended */
    size_t begin, end;           /* of the token, with the space that it takes along */
    const mf_added_token *token; /* NULL: there is no more */
} mf_added_walk;
void mf_added_next(const mf_added *added, const mf_finder *finder, mf_added_walk *walk);

/* tokenizer_split.c */
typedef enum mf_split_kind { MF_SPLIT_PATTERN, MF_SPLIT_BYTE_LEVEL, MF_SPLIT_METASPACE } mf_split_kind;
typedef enum mf_behaviour {
    MF_ISOLATED,
    MF_REMOVED,
    MF_CONTIGUOUS,
    MF_MERGED_WITH_PREVIOUS,
    MF_MERGED_WITH_NEXT
} mf_behaviour;
typedef enum mf_prepend { MF_PREPEND_NEVER, MF_PREPEND_FIRST, MF_PREPEND_ALWAYS } mf_prepend;
typedef struct mf_split_step {
    mf_split_kind kind;
    mf_pattern pattern;
    mf_behaviour behaviour;
    bool invert;
    bool cuts;          /* byte level, metaspace: they also cut */
    mf_prepend prepend; /* a space, or what stands for it */
    char *space;        /* metaspace: what stands for a space, owned */
    size_t space_bytes;
} mf_split_step;
typedef struct mf_splitter {
    mf_split_step step[MF_TOKENIZER_STEPS];
    int count;
    bool byte_level; /* the last one hands bytes on, each of which the vocabulary spells as a character */
} mf_splitter;
mf_status mf_splitter_read(const mf_reading *at, const json_t *part, mf_splitter *out);
void mf_splitter_free(mf_splitter *splitter);
mf_status mf_split_words(mf_encoder *encoder, const mf_stretch *stretch);

/* tokenizer_bpe.c */
typedef struct mf_bpe {
    mf_text_table vocabulary;
    mf_text_table words;      /* ignore_merges, byte level: bytes to ids */
    mf_pair_table merges;     /* (id, id) to rank and id */
    int32_t byte_symbol[256]; /* byte level: of each byte; else of ASCII; -1: none */
    int32_t byte_token[256];  /* of "<0x00>" to "<0xFF>"; -1: none */
    bool byte_level, byte_fallback, fuse_unknown, ignore_merges;
    bool cuts_before_space; /* no merge joins anything with a "▁" behind it */
    int32_t unknown;        /* -1: none */
} mf_bpe;
mf_status mf_bpe_read(const mf_reading *at, const json_t *model, bool byte_level, mf_bpe *out);
void mf_bpe_free(mf_bpe *bpe);
mf_status mf_bpe_word(mf_encoder *encoder, const uint8_t *text, size_t bytes);

/* tokenizer_bytes.c: GPT-2's characters for bytes, of one or two bytes of UTF-8 each. */
uint32_t mf_byte_level_point(uint8_t byte);
/* The bytes that text's characters stand for; false where one stands for none. out: at least `bytes`. */
bool mf_byte_level_decode(const uint8_t *text, size_t bytes, uint8_t *out, size_t *count);

/* tokenizer_decode.c */
typedef enum mf_decode_kind {
    MF_DECODE_REPLACE,
    MF_DECODE_METASPACE,
    MF_DECODE_BYTE_FALLBACK,
    MF_DECODE_STRIP,
    MF_DECODE_FUSE,
    MF_DECODE_BYTE_LEVEL
} mf_decode_kind;
typedef struct mf_decode_step {
    mf_decode_kind kind;
    mf_pattern pattern; /* replace */
    char *content;      /* replace: with; metaspace: stands for a space; strip: the character */
    size_t most;        /* strip: at the front */
    bool drops_first;   /* metaspace: in the first token it stands for nothing */
    bool fused;         /* what comes in is one token in portions */
} mf_decode_step;
typedef struct mf_decode_chain {
    mf_decode_step step[MF_TOKENIZER_STEPS];
    int count;
    bool spaced; /* there is no decoder: tokens are joined with spaces */
} mf_decode_chain;
mf_status mf_decode_chain_read(const mf_reading *at, const json_t *part, mf_decode_chain *out);
void mf_decode_chain_free(mf_decode_chain *chain);

typedef struct mf_token {
    const char *text; /* as the file spells it; NULL: there is none */
    size_t bytes;
    char *normalized; /* what the decoder is given instead, owned; NULL: nothing else */
    size_t normalized_bytes;
    bool special;
} mf_token;

struct mf_tokenizer {
    char *path; /* owned */
    uint64_t hash;
    mf_normalizer normalizer;
    mf_added added;
    mf_splitter splitter;
    mf_bpe bpe;
    mf_decode_chain chain;
    mf_ids before, after; /* what add_special puts around a text */
    mf_token *token;      /* [size] */
    int32_t size;
    mf_text_table names; /* of added tokens that are not in the vocabulary */
    int32_t bos, eos;
};
/* tokenizer_template.c: what goes before and after a text. */
mf_status mf_template_read(const mf_reading *at, const json_t *part, mf_tokenizer *tokenizer);
/* tokenizer_ends.c: bos and eos. */
mf_status mf_tokenizer_find_ends(mf_tokenizer *tokenizer);
/* tokenizer.c: the last error, with the file's name before it. */
mf_status mf_tokenizer_blame(const mf_tokenizer *tokenizer, mf_status status);
/* tokenizer.c: room for `more` ids. */
mf_status mf_ids_reserve(mf_ids *ids, size_t more);

typedef struct mf_symbol {
    int32_t id, previous, next; /* id -1: merged into the one before */
} mf_symbol;
typedef struct mf_merge {
    uint64_t order; /* rank, then place */
    uint32_t then;
} mf_merge;
typedef struct mf_cached_word {
    uint8_t bytes, count; /* bytes 0: free */
    uint8_t text[30];
    int32_t id[8];
} mf_cached_word;

struct mf_encoder {
    const mf_tokenizer *tokenizer;
    mf_matcher *matcher;
    mf_bytes lossy;
    mf_normal_scratch normal;
    mf_bytes step[MF_TOKENIZER_STEPS]; /* text that a step of splitting has changed */
    mf_symbol *symbol;                 /* [symbol_room] */
    size_t symbols, symbol_room;
    mf_merge *queue; /* a heap, [queue_room] */
    size_t queued, queue_room;
    mf_cached_word *cache;
    mf_ids *out;
};

#endif
