/* plan_html.c: the page of `meshfold plan`: well-formed, whole, with nothing from elsewhere, and nothing of
 * what it shows taken for markup. */
#include "support.h"

#include "cli/plan_table.h"
#include "meshfold/io.h"

#include <dirent.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { ROWS = 4 };
static char folder[64];

typedef struct planned {
    mf_cluster cluster;
    mf_plan_row row[ROWS];
    mf_plan_table table;
} planned;

static void plan_row(planned *p, const char *mesh, mf_recompute recompute) {
    mf_plan_row *r = &p->row[p->table.count++];
    *r = (mf_plan_row){.options = {.model = p->table.options, .threads = 1}};
    snprintf(r->mesh, sizeof r->mesh, "%s", mesh);
    r->options.model.recompute = recompute;
    ASSERT_OK(mf_layout_parse(mesh, &mf_layout_words_none, &r->options.mesh, &r->options.layout));
    r->refused = mf_model_check(&r->options.model, &r->options.layout, &r->options.mesh);
    if (r->refused)
        snprintf(r->why, sizeof r->why, "%s", mf_error_last()->message);
    else
        ASSERT_OK(mf_plan(&p->cluster, &r->options, 0, false, &r->plan));
}

/* Two that fit, one that does not, one that can't be. */
static void plan(planned *p) {
    char path[512];
    *p = (planned){0};
    snprintf(path, sizeof path, "%s/clusters/h100.json", MESHFOLD_SOURCE);
    ASSERT_OK(mf_cluster_load(path, &p->cluster));
    p->table = (mf_plan_table){.cluster = &p->cluster,
                               .model = "tsp-7b",
                               .dtype = "bf16",
                               .options = {.type = MF_BF16, .batch = 1, .tokens = 16384},
                               .row = p->row};
    ASSERT_OK(mf_config_preset("tsp-7b", &p->table.options.config));
    plan_row(p, "tsp=8", MF_RECOMPUTE_BLOCK);
    plan_row(p, "tp=8", MF_RECOMPUTE_ATTENTION);
    plan_row(p, "single", MF_RECOMPUTE_BLOCK);
    plan_row(p, "sp=64,exchange=ulysses", MF_RECOMPUTE_BLOCK);
    assert_true(p->row[0].plan.fits && p->row[1].plan.fits && !p->row[2].plan.fits && p->row[3].refused);
}

/* The caller frees it with mf_host_free. */
static char *page_of(const mf_plan_table *table) {
    char path[96], *text = NULL;
    size_t bytes;
    snprintf(path, sizeof path, "%s/page.html", folder);
    ASSERT_OK(mf_plan_html(table, path));
    ASSERT_OK(mf_file_read(path, &text, &bytes));
    unlink(path);
    assert_int_equal(strlen(text), bytes);
    return text;
}

static void expect_in(const char *page, const char *part) {
    if (!strstr(page, part)) fail_msg("the page has no \"%s\"", part);
}

static int count_of(const char *page, const char *part) {
    int count = 0;
    for (const char *at = strstr(page, part); at; at = strstr(at + 1, part)) count++;
    return count;
}

enum { DEPTH = 16 };
typedef struct open_tags {
    char name[DEPTH][16];
    int depth;
} open_tags;

static bool is_entity(const char *at) {
    static const char *const known[] = {"&amp;", "&lt;", "&gt;", "&quot;", "&#39;"};
    for (int i = 0; i < 5; i++)
        if (strncmp(at, known[i], strlen(known[i])) == 0) return true;
    return false;
}

/* Of a tag: its end, past quoted attributes; NULL: a quote or the tag is open, or holds what it must not. */
static const char *end_of_tag(const char *at) {
    bool quoted = false;
    for (at++; *at && (quoted || *at != '>'); at++) {
        if (*at == '"') quoted = !quoted;
        if (*at == '<' || (*at == '&' && !is_entity(at))) return NULL;
    }
    return *at && !quoted ? at : NULL;
}

static bool follow_tag(open_tags *open, const char *at, const char *end) {
    char name[16];
    bool closes = at[1] == '/';
    size_t length = strcspn(at + 1 + closes, " />");
    if (length >= sizeof name) return false;
    snprintf(name, sizeof name, "%.*s", (int)length, at + 1 + closes);
    if (at[1] == '!' || end[-1] == '/') return true;
    if (closes) return open->depth > 0 && strcmp(open->name[--open->depth], name) == 0;
    if (open->depth == DEPTH) return false;
    snprintf(open->name[open->depth++], sizeof name, "%s", name);
    return true;
}

/* NULL: well-formed; else from where on it is not. */
static const char *malformed(const char *page) {
    open_tags open = {.depth = 0};
    for (const char *at = page; *at; at++) {
        if (*at == '&' && !is_entity(at)) return at;
        if (*at == '>') return at;
        if (*at != '<') continue;
        const char *end = end_of_tag(at);
        if (!end || !follow_tag(&open, at, end)) return at;
        at = end;
    }
    return open.depth ? "an element that is not closed" : NULL;
}

static void expect_well_formed(const char *page) {
    const char *at = malformed(page);
    if (at) fail_msg("not well-formed: %.80s", at);
}

static void the_check_finds_what_is_malformed(void **state) {
    (void)state;
    static const char *const bad[] = {"<p>",   "<p><b></p></b>",  "</p>",          "<p>a & b</p>",
                                      "a > b", "<p a=\"<\"></p>", "<p a=\"x></p>", "<br/></br>"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        if (!malformed(bad[i])) fail_msg("%s passes", bad[i]);
    assert_null(malformed("<!DOCTYPE html>\n<p a=\"&quot;\">x &amp; <br/>y</p>"));
}

static void the_page_is_whole(void **state) {
    (void)state;
    static const char *const parts[] = {"<h1>tsp-7b on nodes of 8 H100</h1>",
                                        "8.85B parameters",
                                        "training, 1 sequence of 16384 tokens a replica",
                                        "79.6 GiB",
                                        "4 layouts, as named; 2 fit</dd>",
                                        ">tsp=8</td>",
                                        ">tp=8</td>",
                                        ">single</td>",
                                        ">sp=64,exchange=ulysses</td>",
                                        "<td>fits</td>",
                                        "<td>short by ",
                                        "impossible: ",
                                        "<td>attention</td>",
                                        "<td>tsp ",
                                        "a device has 79.6 GiB",
                                        ">1: tsp=8, recompute block<",
                                        ">2: tp=8, recompute attention<",
                                        "prefers-color-scheme"};
    planned p;
    plan(&p);
    char *page = page_of(&p.table);
    expect_well_formed(page);
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) expect_in(page, parts[i]);
    assert_int_equal(count_of(page, "<tr"), 1 + ROWS);
    assert_int_equal(count_of(page, "<svg"), 3);
    assert_int_equal(count_of(page, "<circle class=\"fits\""), 2);
    assert_int_equal(count_of(page, "<circle class=\"short\""), 1);
    mf_host_free(page);
}

static void nothing_comes_from_elsewhere(void **state) {
    (void)state;
    static const char *const outside[] = {"http", "src=", "href", "url(", "@import", "<script", "<link"};
    planned p;
    plan(&p);
    char *page = page_of(&p.table);
    for (size_t i = 0; i < sizeof outside / sizeof *outside; i++)
        if (strstr(page, outside[i])) fail_msg("the page has \"%s\"", outside[i]);
    mf_host_free(page);
}

/* Every number of an attribute in a drawing, which all are at least 0 and within its view. */
static void expect_inside(const char *drawing, const char *name, double most) {
    for (const char *at = strstr(drawing, name); at && at < strstr(drawing, "</svg>");
         at = strstr(at + 1, name)) {
        double value = strtod(at + strlen(name), NULL);
        if (!(value >= 0 && value <= most)) fail_msg("%s%g, beyond %g", name, value, most);
    }
}

static void drawings_stay_in_view(void **state) {
    (void)state;
    planned p;
    plan(&p);
    memset(p.row[1].mesh, 'w', sizeof p.row[1].mesh - 1);
    char *page = page_of(&p.table);
    expect_in(page, "ww..., recompute attention<");
    expect_in(page, p.row[1].mesh);
    for (const char *at = strstr(page, "<svg"); at; at = strstr(at + 1, "<svg")) {
        double width = 0, height = 0;
        assert_int_equal(sscanf(at, "<svg viewBox=\"0 0 %lf %lf\"", &width, &height), 2);
        static const char *const across[] = {" x=\"", " x1=\"", " x2=\"", " cx=\""}, *const down[] = {
                                                                                         " y=\"", " y1=\"",
                                                                                         " y2=\"", " cy=\""};
        for (int i = 0; i < 4; i++) {
            expect_inside(at, across[i], width);
            expect_inside(at, down[i], height);
        }
    }
    mf_host_free(page);
}

/* The figure beside a bar is the sum of its parts, and must be the row's. */
static void bars_add_up(void **state) {
    (void)state;
    planned p;
    plan(&p);
    char *page = page_of(&p.table), text[64];
    for (int i = 0; i < 3; i++) {
        const mf_memory_stats *m = &p.row[i].plan.rank.memory;
        snprintf(text, sizeof text, ">%.4g GiB</text>", (double)m->peak_total / 1073741824);
        expect_in(page, text);
        snprintf(text, sizeof text, ">%.4g s</text>", p.row[i].plan.step_s);
        expect_in(page, text);
    }
    mf_host_free(page);
}

/* The device's memory is no line where it would leave nothing to see of the bars. */
static void far_devices_are_named_only(void **state) {
    (void)state;
    planned p;
    plan(&p);
    p.cluster.memory_bytes = 1e15;
    char *page = page_of(&p.table);
    expect_in(page, "Memory of a rank at its peak, of 909.5 TiB<");
    expect_in(page, "a device has 909.5 TiB, beyond this edge<");
    assert_int_equal(count_of(page, "<line class=\"limit\""), 0);
    p.cluster.memory_bytes = 1e10;
    mf_host_free(page);
    page = page_of(&p.table);
    assert_int_equal(count_of(page, "<line class=\"limit\""), 2);
    mf_host_free(page);
}

static void text_is_not_markup(void **state) {
    (void)state;
    planned p;
    plan(&p);
    p.table.model = "</title><script>\"a\" & 'b'";
    snprintf(p.row[0].mesh, sizeof p.row[0].mesh, "<b>&amp;\"'>");
    snprintf(p.row[3].why, sizeof p.row[3].why, "1 < 2 && \x01 3 > 2");
    snprintf(p.cluster.name, sizeof p.cluster.name, "<i>");
    p.table.options.forward_only = true;
    char *page = page_of(&p.table);
    expect_well_formed(page);
    expect_in(page, "<h1>&lt;/title&gt;&lt;script&gt;&quot;a&quot; &amp; &#39;b&#39; on &lt;i&gt;</h1>");
    expect_in(page, ">&lt;b&gt;&amp;amp;&quot;&#39;&gt;</td>");
    expect_in(page, "impossible: 1 &lt; 2 &amp;&amp;   3 &gt; 2<");
    expect_in(page, ">forward, 1 sequence");
    mf_host_free(page);
}

static void a_table_of_refusals_has_no_drawings(void **state) {
    (void)state;
    planned p;
    plan(&p);
    p.table.row = &p.row[3];
    p.table.count = 1;
    char *page = page_of(&p.table);
    expect_well_formed(page);
    expect_in(page, "1 layout, as named; 0 fit</dd>");
    assert_int_equal(count_of(page, "<svg"), 0);
    mf_host_free(page);
}

static void a_search_is_told(void **state) {
    (void)state;
    planned p;
    plan(&p);
    mf_search_result search = {
        .tried = 812, .screened = 30, .fit = 20, .count = 4, .left_out[0] = {7, "tp=5", "no <heads>"}};
    mf_longest longest[2] = {{.tokens = 262144, .plan = p.row[0].plan}, {.step = 4096}};
    p.table.search = &search;
    p.table.enough = 16;
    p.table.longest = longest;
    p.table.longests = 2;
    char *page = page_of(&p.table);
    expect_well_formed(page);
    expect_in(page, ">812 layouts: 30 run with a few layers, of which 20 fit; the best 4 in full<");
    expect_in(page, ">7, such as tp=5: no &lt;heads&gt;<");
    expect_in(page, ">on 16 something fits<");
    expect_in(page, ">262144</td>");
    expect_in(page, ">not even 4096</td>");
    assert_int_equal(count_of(page, "<tr"), 1 + ROWS + 1 + 2);
    mf_host_free(page);
}

static int files_in(const char *path) {
    int count = 0;
    DIR *dir = opendir(path);
    assert_non_null(dir);
    for (struct dirent *entry; (entry = readdir(dir));) count += entry->d_name[0] != '.';
    closedir(dir);
    return count;
}

static void failing_leaves_nothing(void **state) {
    (void)state;
    char path[96];
    planned p;
    plan(&p);
    snprintf(path, sizeof path, "%s/none/page.html", folder);
    ASSERT_FAILS(mf_plan_html(&p.table, path), MF_EIO, path);
    ASSERT_FAILS(mf_plan_html(&p.table, folder), MF_EIO, folder);
    ASSERT_FAILS(mf_plan_html(&p.table, "/dev/full"), MF_EIO, "/dev/full");
    assert_int_equal(files_in(folder), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(the_check_finds_what_is_malformed),
                                       cmocka_unit_test(the_page_is_whole),
                                       cmocka_unit_test(nothing_comes_from_elsewhere),
                                       cmocka_unit_test(drawings_stay_in_view),
                                       cmocka_unit_test(bars_add_up),
                                       cmocka_unit_test(far_devices_are_named_only),
                                       cmocka_unit_test(text_is_not_markup),
                                       cmocka_unit_test(a_table_of_refusals_has_no_drawings),
                                       cmocka_unit_test(a_search_is_told),
                                       cmocka_unit_test(failing_leaves_nothing)};
    snprintf(folder, sizeof folder, "%s/meshfold-page-XXXXXX", P_tmpdir);
    if (!mkdtemp(folder)) return 1;
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    rmdir(folder);
    return failed;
}
