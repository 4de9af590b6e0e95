/* config.h: the fields of a configuration under the names that config.json has for them. */
#ifndef MF_MODEL_CONFIG_H
#define MF_MODEL_CONFIG_H

#include "meshfold/model.h"

/* Cosines and sines that a time is embedded from. */
enum { MF_TIME_FEATURES = 256 };

/* Which families have a field. */
enum { MF_TEXTS = 1, MF_VIDEOS = 2 };

/* Whole numbers from 1. */
typedef struct mf_config_integer {
    const char *name;
    size_t offset;
    int64_t most;
    bool required;
    int kinds;
} mf_config_integer;

/* Numbers above 0. */
typedef struct mf_config_real {
    const char *name;
    size_t offset;
    double most;
    int kinds;
} mf_config_real;

enum { MF_CONFIG_INTEGERS = 14, MF_CONFIG_REALS = 4 };
extern const mf_config_integer mf_config_integers[MF_CONFIG_INTEGERS];
/* The first is rope_theta, which newer files have elsewhere. */
extern const mf_config_real mf_config_reals[MF_CONFIG_REALS];

static inline int64_t *mf_config_integer_at(mf_model_config *config, const mf_config_integer *field) {
    return (void *)((char *)config + field->offset);
}
static inline double *mf_config_real_at(mf_model_config *config, const mf_config_real *field) {
    return (void *)((char *)config + field->offset);
}

static inline int mf_config_kind(const mf_model_config *config) {
    return config->family == MF_STDIT ? MF_VIDEOS : MF_TEXTS;
}

/* What a field must be, and what it is. */
mf_status mf_config_refuse_integer(const char *where, const mf_config_integer *field, const char *value);
mf_status mf_config_refuse_real(const char *where, const mf_config_real *field, const char *value);
mf_status mf_config_check_integer(const char *where, const mf_config_integer *field, int64_t value);
mf_status mf_config_check_real(const char *where, const mf_config_real *field, double value);

/* What a family's files say, and mean where they say nothing: the defaults of transformers' configurations.
 */
typedef struct mf_family_facts {
    const char *architecture, *model_type;
    int64_t kv_heads, head_dim, window; /* where the field is absent; 0: from other fields, none */
    bool qkv_bias, qk_norm;
    bool has_window;         /* reads sliding_window ... */
    bool has_window_layers;  /* ... if use_sliding_window, from layer max_window_layers on */
    bool has_attention_bias; /* writes the field, which is false */
} mf_family_facts;
extern const mf_family_facts mf_model_families[MF_MODEL_FAMILIES];

#endif
