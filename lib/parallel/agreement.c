/* What ranks say to one another before each collective on hosts, and what they conclude.
 *
 * Each rank sends a message of fixed size to all: a description of the collective it is at, or "!" and a sentence where
 * it failed. All see the same messages, so all come to the same end:
 *   - all the same: the collective takes place;
 *   - else it does not, and the step has failed on every rank, with the same sentence. What a rank has queued for this
 *     step, or begins in it later, fails at once and touches no carrier.
 * So a step has at most one exchange that fails, and all ranks took part in it:
 *   - Two fail at once: both messages are in one exchange; or one is in an earlier exchange, which fails the other's step,
 *     too, and its "!" is dropped from the queue.
 *   - One fails while it, or others, have more queued: its "!" comes after what it has queued. The others come to the same
 *     exchange with their next collective, and drop what follows it.
 *   - One fails after a step's last collective: the others come to that exchange in their next step. It must fail in the
 *     rank's next step as well, or the rank would go on one step ahead of the others. That is why a message also says how
 *     many steps its rank has begun since the last exchange that all ranks know the end of; the largest of these is
 *     where the failure ends, on all ranks. The same brings together ranks that stand in different steps for other reasons.
 * The next step's first collective is then the next exchange on every rank. */
#include <stdio.h>
#include <string.h>

#include "tensor.h"
#include "world_internal.h"

/* More steps than anyone begins without a collective: a message that says more is damaged. */
static const uint64_t MOST_STEPS = 1 << 20;

void cavmae__world_text(const cavmae__collective *collective, char text[CAVMAE__WORLD_TEXT]) {
    static const char *const kinds[] = {"all-reduce", "reduce-scatter", "all-gather", "broadcast", "barrier"};
    char what[sizeof collective->what + 1] = "", root[32] = "";
    memset(text, 0, CAVMAE__WORLD_TEXT);
    memcpy(what, collective->what, sizeof collective->what);
    if (collective->kind == CAVMAE__BROADCAST) snprintf(root, sizeof root, " from rank %d", (int)collective->root);
    if (collective->kind == CAVMAE__BARRIER)
        snprintf(text, CAVMAE__WORLD_TEXT, "barrier (%s)", what);
    else
        snprintf(text, CAVMAE__WORLD_TEXT, "%s of %lld %s%s (%s)", kinds[collective->kind],
                 (long long)collective->count, cavmae__dtype_name(collective->dtype), root, what);
}

static int same(const cavmae__message *a, const cavmae__message *b) {
    return memcmp(a->text, b->text, sizeof a->text) == 0;
}

/* The lowest rank among those whose message most ranks sent. */
static int32_t find_majority(const cavmae__message *messages, int32_t size) {
    int32_t best = 0, most = 0;
    for (int32_t i = 0; i < size; i++) {
        int32_t count = 0;
        for (int32_t j = 0; j < size; j++) count += same(&messages[i], &messages[j]);
        if (count > most) {
            best = i;
            most = count;
        }
    }
    return best;
}

int cavmae__messages_agree(cavmae__message *messages, int32_t size, char sentence[CAVMAE__WORLD_SENTENCE]) {
    int32_t failed = -1, differing = 0, first = -1;
    for (int32_t i = 0; i < size; i++) {
        messages[i].text[CAVMAE__WORLD_TEXT - 1] = '\0';
        if (messages[i].text[0] == '!' && failed < 0) failed = i;
        differing += !same(&messages[i], &messages[0]);
    }
    if (failed >= 0) {
        snprintf(sentence, CAVMAE__WORLD_SENTENCE, "world: rank %d failed: %s", (int)failed, messages[failed].text + 1);
        return 0;
    }
    if (!differing) return 1;
    int32_t majority = find_majority(messages, size);
    differing = 0;
    for (int32_t i = size - 1; i >= 0; i--)
        if (!same(&messages[i], &messages[majority])) {
            first = i;
            differing++;
        }
    int used = snprintf(sentence, CAVMAE__WORLD_SENTENCE, "world: rank %d is at '%s', rank %d at '%s'", (int)first,
                        messages[first].text, (int)majority, messages[majority].text);
    if (differing > 1)
        snprintf(sentence + used, CAVMAE__WORLD_SENTENCE - (size_t)used, "; %d of %d ranks differ", (int)differing,
                 (int)size);
    return 0;
}

int cavmae__world_agree(cavmae_world *world, const cavmae__world_item *item, uint64_t *failed_through,
                        char sentence[CAVMAE__WORLD_SENTENCE]) {
    cavmae__message *mine = &world->messages[world->rank];
    mine->steps = item->step - world->common_step;
    memcpy(mine->text, item->text, sizeof mine->text);
    sentence[0] = '\0';
    cavmae_status status =
        world->host.all_gather(world->host.user, mine, world->messages, sizeof *mine, sentence, CAVMAE__WORLD_SENTENCE);
    if (status != CAVMAE_OK) {
        sentence[CAVMAE__WORLD_SENTENCE - 1] = '\0';
        if (!sentence[0]) snprintf(sentence, CAVMAE__WORLD_SENTENCE, "%s", cavmae_status_str(status));
        return CAVMAE__CARRIER_FAILED;
    }
    int agreed = cavmae__messages_agree(world->messages, world->size, sentence);
    if (!agreed) {
        uint64_t steps = 0;
        for (int32_t i = 0; i < world->size; i++)
            if (world->messages[i].steps > steps) steps = world->messages[i].steps;
        if (steps > MOST_STEPS) steps = MOST_STEPS;
        *failed_through = world->common_step + steps;
        world->common_step = *failed_through;
        return CAVMAE__REFUSED;
    }
    world->common_step = item->step;
    return CAVMAE__AGREED;
}
