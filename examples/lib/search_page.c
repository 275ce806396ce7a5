#define _GNU_SOURCE
#include "search_page.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "clip_input.h"
#include "drawing.h"
#include "inline_media.h"
#include "page.h"
#include "page_style.h"
#include "program.h"

enum { THUMB = 192, QUALITY = 75, SEARCHES = 5 };

typedef struct page_clip {
    char *name, *sound, *sight;
    size_t folder; /* bytes of the name that are folders; 0: none */
} page_clip;

/* One kind of search, of all clips at once. */
typedef struct search {
    const char *title, *words;
    int32_t query, found; /* kinds */
    int32_t row;          /* results of a clip */
    int64_t *ids;         /* [clips, row] */
    float *scores;
} search;

typedef struct search_page {
    const char *path;
    cavmae_context *context;
    cavmae_model *model;
    page_clip *clips;
    int64_t count;
    int32_t k;
    search searches[SEARCHES];
} search_page;

/* ---- What there is to show ---- */

static char *copy_text(const char *text) {
    char *copy = strdup(text ? text : "");
    if (!copy) die("no memory");
    return copy;
}

static page_clip *read_items(cavmae_loader *loader, const clip_list *clips) {
    page_clip *out = allocate((size_t)clips->count, sizeof *out);
    for (int64_t i = 0; i < clips->count; i++) {
        cavmae_loader_item item = {.struct_size = sizeof item};
        check(cavmae_loader_item_at(loader, clips->samples[i], &item));
        out[i] = (page_clip){copy_text(item.id), copy_text(item.audio_path), copy_text(item.image_path), 0};
        const char *slash = strrchr(out[i].name, '/');
        if (slash) out[i].folder = (size_t)(slash - out[i].name);
    }
    return out;
}

/* Of what is looked for among its own kind the first is the query itself: one more is asked for. */
static void find(search_page *p, search *s, const output *gallery) {
    const output *from = &gallery[s->query], *in = &gallery[s->found];
    cavmae_index *index;
    s->row = p->k + 1;
    s->ids = allocate((size_t)(p->count * s->row), sizeof *s->ids);
    s->scores = allocate((size_t)(p->count * s->row), sizeof *s->scores);
    check(cavmae_index_create(p->context, (int32_t)in->dim, &index));
    check(cavmae_index_add(index, in->values, p->count));
    check(cavmae_index_search(index, from->values, p->count, s->row, s->ids, s->scores));
    cavmae_index_free(index);
}

/* ---- Pictures: once each, as a class, since most of them are shown many times ---- */

static void write_thumbs(FILE *html, const search_page *p) {
    for (int64_t i = 0; i < p->count; i++) {
        clip_input clip = read_clip(p->context, p->model, NULL, p->clips[i].sight);
        picture square = new_picture(clip.crop, clip.crop, (const unsigned char[3]){0, 0, 0});
        draw_picture(&square, -clip.crop_x, -clip.crop_y, &clip.frame);
        picture small = scaled_picture(&square, THUMB, THUMB);
        fprintf(html, ".t%" PRId64 "{background-image:url(", i);
        picture_address(html, &small, QUALITY);
        fputs(")}\n", html);
        picture_free(&small);
        picture_free(&square);
        free_clip(&clip);
        if (isatty(STDERR_FILENO)) fprintf(stderr, "\r%" PRId64 " of %" PRId64 " pictures", i + 1, p->count);
    }
    if (isatty(STDERR_FILENO)) fprintf(stderr, "\r\033[K");
}

/* ---- A clip ---- */

static const char *short_name(const page_clip *c) { return c->name + (c->folder ? c->folder + 1 : 0); }

/* A picture that leads to its clip, and a button that plays its sound. */
static void write_card(FILE *html, const search_page *p, int64_t id, const char *classes, const char *anchor) {
    fputs("<li", html);
    if (anchor) fprintf(html, " id=\"%s-%" PRId64 "\"", anchor, id);
    if (classes) fprintf(html, " class=\"%s\"", classes);
    fprintf(html, "><a href=\"#clip-%" PRId64 "\"><span class=\"thumb t%" PRId64 "\"></span><span class=\"name\">", id,
            id);
    write_text(html, short_name(&p->clips[id]));
    fprintf(html, "</span></a><button data-clip=\"%" PRId64 "\" aria-label=\"play\">&#9654;</button>", id);
}

static void write_found(FILE *html, const search_page *p, const search *s, int64_t query) {
    const int64_t *ids = s->ids + query * s->row;
    const float *scores = s->scores + query * s->row;
    fprintf(html, "<h2>%s</h2><p>%s</p>\n<ol class=\"clips\">\n", s->title, s->words);
    for (int32_t i = 0, shown = 0; i < s->row && shown < p->k && ids[i] >= 0; i++) {
        if (ids[i] == query && s->query == s->found) continue;
        write_card(html, p, ids[i], ids[i] == query ? "own" : NULL, NULL);
        fprintf(html, "<span class=\"score\">%.3f%s</span></li>\n", (double)scores[i],
                ids[i] == query ? " its own" : "");
        shown++;
    }
    fputs("</ol>\n", html);
}

/* A video's picture is its background, seen through a poster of one transparent pixel: it is in the page once. */
static void write_media(FILE *html, const search_page *p, int64_t id) {
    const page_clip *c = &p->clips[id];
    if (!strcmp(c->sound, c->sight)) {
        fprintf(html,
                "<video class=\"media t%" PRId64 "\" controls preload=\"none\" poster=\"data:image/gif;base64,"
                "R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7\" src=\"",
                id);
        write_address(html, p->path, c->sound);
        fputs("\"></video>", html);
    } else {
        fprintf(html,
                "<span class=\"thumb t%" PRId64 "\"></span><audio class=\"media\" controls preload=\"none\" src=\"",
                id);
        write_address(html, p->path, c->sound);
        fputs("\"></audio>", html);
    }
}

static void write_clip(FILE *html, const search_page *p, int64_t id) {
    fprintf(html,
            "<section class=\"clip\" id=\"clip-%" PRId64 "\">\n<a class=\"back\" href=\"#card-%" PRId64
            "\">&larr; all clips</a>\n<div class=\"top\"><div>",
            id, id);
    write_media(html, p, id);
    fputs("</div><h1>", html);
    write_text(html, p->clips[id].name);
    fputs("</h1></div>\n<div class=\"found\">\n", html);
    for (int i = 0; i < SEARCHES; i++) write_found(html, p, &p->searches[i], id);
    fputs("</div></section>\n", html);
}

/* ---- The page ---- */

static void write_head(FILE *html, const search_page *p, const cavmae_retrieval_metrics *way) {
    static const char *const facts[2] = {"of sounds find their own picture", "of pictures find their own sound"};
    const int first = p->count < 50; /* among few clips the first ten tell nothing */
    fprintf(html,
            "<h1>%" PRId64 " clips</h1>\n<p class=\"lead\">Choose one to see what is nearest to it: by its sound, by "
            "its picture, or by both.</p>\n<div class=\"facts\">",
            p->count);
    for (int i = 0; i < 2; i++)
        fprintf(html, "<div><b>%.0f %%</b><span>%s %s; by chance %.1f %%</span></div>",
                100 * (first ? way[i].r1 : way[i].r10), facts[i], first ? "before all others" : "among the first 10",
                (first ? 100.0 : 1000.0) / (double)p->count);
    fputs("</div>\n", html);
}

/* Clips of one folder follow one another. */
static int new_folder(const search_page *p, int64_t i) {
    const page_clip *c = &p->clips[i], *before = i ? c - 1 : c;
    return i == 0 ? c->folder > 0 : c->folder != before->folder || strncmp(c->name, before->name, c->folder) != 0;
}

static void write_folder(FILE *html, const page_clip *c) {
    char *folder = strndup(c->name, c->folder);
    if (!folder) die("no memory");
    write_text(html, c->folder ? folder : ".");
    free(folder);
}

static void write_all(FILE *html, const search_page *p, const cavmae_retrieval_metrics *way) {
    int folders = 0;
    fputs("<main class=\"all\">\n", html);
    write_head(html, p, way);
    for (int64_t i = 0; i < p->count; i++) {
        if (!new_folder(p, i)) continue;
        fprintf(html, "%s<a href=\"#folder-%" PRId64 "\">", folders++ ? "" : "<nav>", i);
        write_folder(html, &p->clips[i]);
        fputs("</a>\n", html);
    }
    if (folders) fputs("</nav>\n", html);
    for (int64_t i = 0; i < p->count; i++) {
        if (i == 0 || new_folder(p, i)) {
            if (i > 0) fputs("</ul>\n", html);
            if (new_folder(p, i)) {
                fprintf(html, "<h2 id=\"folder-%" PRId64 "\">", i);
                write_folder(html, &p->clips[i]);
                fputs("</h2>\n", html);
            }
            fputs("<ul class=\"clips\">\n", html);
        }
        write_card(html, p, i, NULL, "card");
        fputs("</li>\n", html);
    }
    fputs("</ul>\n</main>\n", html);
}

/* Without scripts the page works as well, but for the buttons: a clip's own player is where the clip is shown. */
static const char script[] = "<audio id=\"player\" controls></audio>\n<script>\n"
                             "document.documentElement.className='js';\n"
                             "var player=document.getElementById('player'),on=null;\n"
                             "function quiet(){if(on)on.className='';on=null}\n"
                             "player.onended=player.onpause=quiet;\n"
                             "document.onclick=function(e){\n"
                             "  var b=e.target;\n"
                             "  if(b.tagName!='BUTTON')return;\n"
                             "  if(on==b){player.pause();return}\n"
                             "  quiet();\n"
                             "  player.src=document.querySelector('#clip-'+b.dataset.clip+' .media').src;\n"
                             "  player.play().then(function(){on=b;b.className='on'},function(){});\n"
                             "};\n</script>\n";

void write_search_page(const char *path, cavmae_context *context, cavmae_model *model, cavmae_loader *loader,
                       const clip_list *clips, const output *gallery, const cavmae_retrieval_metrics *way, int32_t k) {
    search_page p = {.path = path,
                     .context = context,
                     .model = model,
                     .count = clips->count,
                     .k = k < clips->count ? k : (int32_t)clips->count,
                     .searches = {{.title = "Sounds like it",
                                   .words = "The sounds nearest to its sound.",
                                   .query = KIND_AUDIO,
                                   .found = KIND_AUDIO},
                                  {.title = "Looks like it",
                                   .words = "The pictures nearest to its picture.",
                                   .query = KIND_VISUAL,
                                   .found = KIND_VISUAL},
                                  {.title = "Like it in both",
                                   .words = "By the joint embedding of sound and picture.",
                                   .query = KIND_JOINT,
                                   .found = KIND_JOINT},
                                  {.title = "Pictures for its sound",
                                   .words = "What one could see where this is heard; its own has a green frame.",
                                   .query = KIND_AUDIO,
                                   .found = KIND_VISUAL},
                                  {.title = "Sounds for its picture",
                                   .words = "What one could hear where this is seen; its own has a green frame.",
                                   .query = KIND_VISUAL,
                                   .found = KIND_AUDIO}}};
    p.clips = read_items(loader, clips);
    for (int i = 0; i < SEARCHES; i++) find(&p, &p.searches[i], gallery);
    FILE *html = open_page(path, "Clips and what is near them");
    fputs(search_style, html);
    write_thumbs(html, &p);
    page_body(html);
    for (int64_t i = 0; i < p.count; i++) write_clip(html, &p, i);
    write_all(html, &p, way);
    fputs(script, html);
    close_page(html, path);
    for (int64_t i = 0; i < p.count; i++) {
        free(p.clips[i].name);
        free(p.clips[i].sound);
        free(p.clips[i].sight);
    }
    free(p.clips);
    for (int i = 0; i < SEARCHES; i++) {
        free(p.searches[i].ids);
        free(p.searches[i].scores);
    }
}
