/* What pickles say, and what they may not want. */
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "pickle.h"

static cavmae_context *context;

/* In memory of exactly its size, so that the sanitizer sees a read past the end. */
static cavmae_status load_pickle(const char *text, size_t size, cavmae__pickle_value *result) {
    cavmae__pickle *pickle;
    size_t used = 0;
    char *exact = malloc(size ? size : 1);
    memcpy(exact, text, size);
    cavmae_status status = cavmae__pickle_load(context, exact, size, "p", &pickle, &used);
    if (status == CAVMAE_OK) {
        CHECK(used <= size);
        if (result) *result = *cavmae__pickle_result(pickle);
        cavmae__pickle_free(pickle);
    }
    free(exact);
    return status;
}

#define P "\x80\x02"
#define PICKLE(text) text, sizeof text - 1

static void test_values(void) {
    static const struct {
        const char *text;
        size_t size;
        uint32_t type;
        int64_t at;
    } good[] = {
        {PICKLE(P "N."), CAVMAE__PICKLE_NONE, 0},
        {PICKLE(P "\x88."), CAVMAE__PICKLE_BOOL, 1},
        {PICKLE(P "\x89."), CAVMAE__PICKLE_BOOL, 0},
        {PICKLE(P "K\xff."), CAVMAE__PICKLE_INT, 255},
        {PICKLE(P "M\xfe\xff."), CAVMAE__PICKLE_INT, 65534},
        {PICKLE(P "J\xff\xff\xff\xff."), CAVMAE__PICKLE_INT, -1},
        {PICKLE(P "J\xff\xff\xff\x7f."), CAVMAE__PICKLE_INT, INT32_MAX},
        {PICKLE(P "\x8a\0."), CAVMAE__PICKLE_INT, 0},
        {PICKLE(P "\x8a\1\x80."), CAVMAE__PICKLE_INT, -128},
        {PICKLE(P "\x8a\5\0\0\0\0\1."), CAVMAE__PICKLE_INT, (int64_t)1 << 32},
        {PICKLE(P "\x8b\2\0\0\0\0\1."), CAVMAE__PICKLE_INT, 256},
        {PICKLE(P "\x8a\x09\1\2\3\4\5\6\7\x08\x09."), CAVMAE__PICKLE_LONG, 4},
        {PICKLE(P "G\0\0\0\0\0\0\0\0."), CAVMAE__PICKLE_FLOAT, 0},
        {PICKLE(P "X\2\0\0\0ab."), CAVMAE__PICKLE_STRING, 7},
        {PICKLE(P "\x8c\2ab."), CAVMAE__PICKLE_STRING, 4},
        {PICKLE(P "\x8d\2\0\0\0\0\0\0\0ab."), CAVMAE__PICKLE_STRING, 11},
        {PICKLE(P "U\0."), CAVMAE__PICKLE_STRING, 4},
        {PICKLE(P "C\1a."), CAVMAE__PICKLE_BYTES, 4},
        {PICKLE(P "K\1K\2K\3\x87."), CAVMAE__PICKLE_TUPLE, 0},
        {PICKLE(P ")."), CAVMAE__PICKLE_TUPLE, 0},
        {PICKLE(P "]K\1a(NNe."), CAVMAE__PICKLE_LIST, 0},
        {PICKLE(P "}K\1K\2s."), CAVMAE__PICKLE_DICT, 0},
        {PICKLE(P "\x8f(K\1\x90."), CAVMAE__PICKLE_OPAQUE, 0},
        {PICKLE(P "(K\1\x91."), CAVMAE__PICKLE_OPAQUE, 0},
        {PICKLE(P "]q\5h\5a."), CAVMAE__PICKLE_LIST, 0},         /* a list in itself */
        {PICKLE(P "N\x94\x88\x94h\0."), CAVMAE__PICKLE_NONE, 0}, /* MEMOIZE counts */
        {PICKLE(P "Nr\7\0\0\0\x88j\7\0\0\0."), CAVMAE__PICKLE_NONE, 0},
        {PICKLE(P "NK\1"
                  "0."),
         CAVMAE__PICKLE_NONE, 0}, /* POP */
        {PICKLE(P "N(K\1K\1"
                  "1."),
         CAVMAE__PICKLE_NONE, 0}, /* POP_MARK */
        {PICKLE("\x80\4\x95\2\0\0\0\0\0\0\0N."), CAVMAE__PICKLE_NONE, 0},
        {PICKLE(P "cargparse\nNamespace\n)\x81}X\1\0\0\0aK\1sb."), CAVMAE__PICKLE_OPAQUE, 0},
        {PICKLE(P "\x8c\x0b"
                  "collections\x8c\x0bOrderedDict\x93)R."),
         CAVMAE__PICKLE_DICT, 0},
        {PICKLE(P "ccollections\nOrderedDict\n](](NNee\x85R."), CAVMAE__PICKLE_DICT, 0},
    };
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        cavmae__pickle_value value = {0};
        if (!CHECK_OK(load_pickle(good[i].text, good[i].size, &value)) ||
            !CHECK(value.type == good[i].type && (good[i].at == 0 || value.at == good[i].at)))
            printf("  pickle %zu\n", i);
        for (size_t length = 0; length < good[i].size; length++) { /* cut, it is none, or ends earlier */
            cavmae_status status = load_pickle(good[i].text, length, NULL);
            if (!CHECK(status != CAVMAE_OK)) printf("  pickle %zu at %zu\n", i, length);
        }
    }
}

static void test_hostile_pickles(void) {
    static const struct {
        const char *text;
        size_t size;
        cavmae_status status;
        const char *words;
    } bad[] = {
        {PICKLE(P "cposix\nsystem\n(X\4\0\0\0truetR."), CAVMAE_E_UNSUPPORTED,
         "p: byte 2: pickle wants 'posix.system', which a dictionary of tensors does not need"},
        {PICKLE(P "c__builtin__\neval\n."), CAVMAE_E_UNSUPPORTED, "'__builtin__.eval'"},
        {PICKLE(P "cos\nsystem\n."), CAVMAE_E_UNSUPPORTED, "'os.system'"},
        {PICKLE("\x80\4\x8c\5posix\x8c\6system\x93."), CAVMAE_E_UNSUPPORTED, "'posix.system'"},
        {PICKLE(P "(iposix\nsystem\n."), CAVMAE_E_UNSUPPORTED, "'posix.system'"},
        {PICKLE(P "ctorch\nload\n."), CAVMAE_E_UNSUPPORTED, "'torch.load'"},
        {PICKLE(P "ctorch._utils\n_rebuild_tensor_v3\n."), CAVMAE_E_UNSUPPORTED, "'torch._utils._rebuild_tensor_v3'"},
        {PICKLE(P "ctorch\nserialization.os.system\n."), CAVMAE_E_UNSUPPORTED, "'torch.serialization.os.system'"},
        {PICKLE(P "c\x1b[2J\na\tb\n."), CAVMAE_E_UNSUPPORTED, "'?[2J.a?b'"},
        {PICKLE(P "c\n\n."), CAVMAE_E_UNSUPPORTED, "'.'"},
        {PICKLE(P "K\1K\2\x93."), CAVMAE_E_FORMAT, "a name that is no string"},
        {PICKLE(P "ctorch\nFloatStorage\nJ\xff\xff\xff\x7f\x85R."), CAVMAE_E_UNSUPPORTED,
         "pickle calls 'torch.FloatStorage'"},
        {PICKLE(P "ctorch\nfloat32\n)\x81."), CAVMAE_E_UNSUPPORTED, "pickle calls 'torch.float32'"},
        {PICKLE(P "ctorch._utils\n_rebuild_tensor_v2\n}b."), CAVMAE_E_UNSUPPORTED,
         "sets attributes of a class or function"},
        {PICKLE(P "]}b."), CAVMAE_E_UNSUPPORTED, "sets attributes of a list"},
        {PICKLE(P "NN\x86R."), CAVMAE_E_FORMAT, "the stack is empty"},
        {PICKLE(P "N)R."), CAVMAE_E_FORMAT, "calls None with a tuple"},
        {PICKLE(P "ccollections\nOrderedDict\n]R."), CAVMAE_E_FORMAT, "calls a class or function with a list"},
        {PICKLE(P "ccollections\nOrderedDict\n]Na\x85R."), CAVMAE_E_FORMAT, "what are no pairs"},
        {PICKLE(P "ccollections\nOrderedDict\n]](NNNea\x85R."), CAVMAE_E_FORMAT, "what are no pairs"},
        {PICKLE(P "\x82\1."), CAVMAE_E_UNSUPPORTED, "opcode EXT1"},
        {PICKLE(P "\x83\1\0."), CAVMAE_E_UNSUPPORTED, "opcode EXT2"},
        {PICKLE(P "\x84\1\0\0\0."), CAVMAE_E_UNSUPPORTED, "opcode EXT4"},
        {PICKLE(P "(cposix\nsystem\no."), CAVMAE_E_UNSUPPORTED, "'posix.system'"},
        {PICKLE(P "(cargparse\nNamespace\no."), CAVMAE_E_UNSUPPORTED, "opcode OBJ"},
        {PICKLE(P "Pstorage\n."), CAVMAE_E_UNSUPPORTED, "opcode PERSID"},
        {PICKLE(P "NQ."), CAVMAE_E_FORMAT, "a storage is told by None"},
        {PICKLE(P "I1\n."), CAVMAE_E_UNSUPPORTED, "opcode INT"},
        {PICKLE(P "S'a'\n."), CAVMAE_E_UNSUPPORTED, "opcode STRING"},
        {PICKLE(P "N2\x86."), CAVMAE_E_UNSUPPORTED, "opcode DUP"},
        {PICKLE(P "\x97."), CAVMAE_E_UNSUPPORTED, "opcode NEXT_BUFFER"},
        {PICKLE(P "cargparse\nNamespace\n)}\x92."), CAVMAE_E_UNSUPPORTED, "opcode NEWOBJ_EX"},
        {PICKLE(P "\xff."), CAVMAE_E_FORMAT, "0xff is no opcode"},
        {PICKLE("\x80\6N."), CAVMAE_E_UNSUPPORTED, "protocol 6"},
        {PICKLE("\x80\1N."), CAVMAE_E_UNSUPPORTED, "protocol 1"},
        {PICKLE("N."), CAVMAE_E_UNSUPPORTED, "not a pickle of protocol 2"},
        {PICKLE(P "."), CAVMAE_E_FORMAT, "the stack is empty"},
        {PICKLE(P "N(."), CAVMAE_E_FORMAT, "the stack is empty"}, /* what lies below a mark is out of reach */
        {PICKLE(P "NN(\x86."), CAVMAE_E_FORMAT, "the stack is empty"},
        {PICKLE(P "](a."), CAVMAE_E_FORMAT, "the stack is empty"},
        {PICKLE(P "N(q\1."), CAVMAE_E_FORMAT, "the stack is empty"},
        {PICKLE(P "Nt."), CAVMAE_E_FORMAT, "there is no mark"},
        {PICKLE(P "}(NNNu."), CAVMAE_E_FORMAT, "a key without a value"},
        {PICKLE(P "]NNs."), CAVMAE_E_FORMAT, "adds items to a list"},
        {PICKLE(P "}Na."), CAVMAE_E_FORMAT, "adds items to a dictionary"},
        {PICKLE(P "N(Ne."), CAVMAE_E_FORMAT, "adds items to None"},
        {PICKLE(P "h\1."), CAVMAE_E_FORMAT, "nothing was put into memo 1"},
        {PICKLE(P "Nr\5\0\0\0j\4\0\0\0."), CAVMAE_E_FORMAT, "nothing was put into memo 4"},
        {PICKLE(P "j\xff\xff\xff\xff."), CAVMAE_E_FORMAT, "nothing was put into memo 4294967295"},
        {PICKLE(P "Nr\xff\xff\xff\xff."), CAVMAE_E_FORMAT, "memo 4294967295 in so short a pickle"},
        {PICKLE(P "X\xff\xff\xff\xff."), CAVMAE_E_FORMAT, "ends in the middle"},
        {PICKLE(P "\x8d\xff\xff\xff\xff\xff\xff\xff\xff."), CAVMAE_E_FORMAT, "ends in the middle"},
        {PICKLE(P "\x8e\xff\xff\xff\xff\xff\xff\xff\x7f."), CAVMAE_E_FORMAT, "ends in the middle"},
        {PICKLE(P "\x96\0\0\0\0\0\0\0\x80."), CAVMAE_E_FORMAT, "ends in the middle"},
        {PICKLE(P "\x8b\xff\xff\xff\xff."), CAVMAE_E_FORMAT, "ends in the middle"},
        {PICKLE(P "\x8b\0\0\0\x80."), CAVMAE_E_FORMAT, "ends in the middle"},
        {PICKLE(P "T\xff\xff\xff\xff."), CAVMAE_E_FORMAT, "ends in the middle"},
        {PICKLE("\x80\4\x95\xff\xff\xff\xff\xff\xff\xff\xffN."), CAVMAE_E_FORMAT, "ends in the middle"},
        {PICKLE(P "ctorch"), CAVMAE_E_FORMAT, "ends in the middle"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        if (!CHECK_STATUS(load_pickle(bad[i].text, bad[i].size, NULL), bad[i].status) ||
            !CHECK(strstr(cavmae_last_error(), bad[i].words) != NULL))
            printf("  pickle %zu: %s\n", i, cavmae_last_error());
}

/* Pickles that are small and would be large: in memory they are at most a fixed multiple of themselves. */
static void test_large_pickles(void) {
    enum { SIZE = 1 << 20 };
    char *text = malloc(SIZE);
    memset(text, '(', SIZE);
    memcpy(text, P, 2);
    CHECK_STATUS(load_pickle(text, SIZE, NULL), CAVMAE_E_FORMAT);
    CHECK(strstr(cavmae_last_error(), "nested more than 1000 deep") != NULL);

    memset(text + 2, ']', SIZE - 4); /* lists in one tuple */
    text[2] = '(';
    memcpy(text + SIZE - 2, "t.", 2);
    CHECK_OK(load_pickle(text, SIZE, NULL));

    for (size_t i = 2; i < SIZE - 1; i++) text[i] = i % 2 ? '\x85' : 'N'; /* deep in another sense */
    memset(text + 3, '\x85', SIZE - 4);
    CHECK_OK(load_pickle(text, SIZE, NULL));

    /* The same long list made a dictionary again and again. */
    size_t at = 0, pairs = 5000;
    static const char start[] = P "ccollections\nOrderedDict\nq\1]q\2(";
    memcpy(text, start, sizeof start - 1);
    at = sizeof start - 1;
    for (size_t i = 0; i < pairs; i++, at += 3) memcpy(text + at, "NN\x86", 3);
    text[at++] = 'e';
    text[at++] = '(';
    for (; at + 6 < SIZE; at += 6) memcpy(text + at, "h\1h\2\x85R", 6);
    memcpy(text + at, "t.", 2);
    CHECK_STATUS(load_pickle(text, at + 2, NULL), CAVMAE_E_FORMAT);
    CHECK(strstr(cavmae_last_error(), "bytes of memory, more than a pickle of its size may") != NULL);
    free(text);
}

int main(void) {
    CHECK_OK(cavmae_context_create(NULL, &context));
    test_values();
    test_hostile_pickles();
    test_large_pickles();
    cavmae_context_free(context);
    return check_summary("pickle");
}
