/* model_text.c: see model_text.h. */
#include "cli/model_text.h"

#include "cli/text.h"

#include <stdio.h>

const char *mf_config_text(const mf_model_config *c, char out[MF_MODEL_TEXT]) {
    const mf_video_config *v = &c->video;
    int used = snprintf(out, MF_MODEL_TEXT, "%lld layer%s, hidden %lld, %lld heads, ", (long long)c->layers,
                        mf_plural(c->layers), (long long)c->hidden, (long long)c->heads);
    size_t room = (size_t)(MF_MODEL_TEXT - used);
    if (c->family == MF_STDIT)
        snprintf(out + used, room, "ffn %lld%s; clips of %lld channels in patches of %lldx%lld",
                 (long long)c->ffn, v->gated ? ", gated" : "", (long long)v->channels, (long long)v->patch,
                 (long long)v->patch);
    else
        snprintf(out + used, room, "%lld key heads, ffn %lld, vocabulary %lld", (long long)c->kv_heads,
                 (long long)c->ffn, (long long)c->vocab);
    return out;
}

const char *mf_amount_text(const mf_model_options *o, int64_t sequences, char out[MF_MODEL_TEXT]) {
    const mf_clip_grid *g = &o->grid;
    if (o->config.family == MF_STDIT)
        snprintf(out, MF_MODEL_TEXT, "%lld clip%s of %lld frame%s of %lldx%lld patches", (long long)sequences,
                 mf_plural(sequences), (long long)g->frames, mf_plural(g->frames), (long long)g->rows,
                 (long long)g->columns);
    else
        snprintf(out, MF_MODEL_TEXT, "%lld sequence%s of %lld tokens", (long long)sequences,
                 mf_plural(sequences), (long long)o->tokens);
    return out;
}
