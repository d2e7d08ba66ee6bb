/* Types as the client encodes them are what the heap reads: the two know the layout separately. */
#include "support/test.h"

#include "alloc/heap.h"
#include "base/mem.h"
#include "client/sdk.h"

struct inner {
    int32_t low, high;
};
struct sample {
    uint8_t raw[5];
    char text[11];
    uint16_t shorts[3];
    struct inner inner;
    cairn_ptr other, numbered, any;
    float real;
};
CAIRN_TYPE(sample, CAIRN_BYTES(raw), CAIRN_CHARS(text), CAIRN_U16(shorts), CAIRN_I32(inner.high),
           CAIRN_PTR(other, sample), CAIRN_PTR_NUMBERED(numbered, 6), CAIRN_PTR_ANY(any),
           CAIRN_F32(real));

static void the_heap_reads_what_the_client_encodes(void **state)
{
    (void)state;
    const cairn_type *type = CAIRN_TYPE_OF(sample);
    struct heap_type *decoded = mem_zalloc(sizeof *decoded);
    struct buf bytes = {0};
    struct buf again = {0};
    assert_non_null(decoded);
    assert_int_equal(sdk__type_encode(type, &bytes), 0);
    assert_int_equal(
        heap_type_decode(cairn_type_number(type), slice_of(bytes.data, bytes.len), decoded), 0);
    assert_true(slice_equals(decoded->name, slice_of("sample", 6)));
    assert_int_equal(decoded->size, sizeof(struct sample));
    assert_int_equal(decoded->field_count, 8);
    for (uint32_t i = 0; i < 8; i++) {
        const struct heap_field *field = &decoded->fields[i];
        assert_true(slice_equals(field->name,
                                 slice_of(type->fields[i].name, strlen(type->fields[i].name))));
        assert_int_equal(field->kind, type->fields[i].kind);
        assert_int_equal(field->offset, type->fields[i].offset);
        assert_int_equal(field->count, type->fields[i].count);
    }
    assert_int_equal(decoded->fields[3].offset, offsetof(struct sample, inner.high));
    assert_int_equal(decoded->fields[4].target, cairn_type_number(type));
    assert_int_equal(decoded->fields[5].target, 6);
    assert_int_equal(decoded->fields[6].target, 0);
    assert_int_equal(heap_type_encode(decoded, &again), 0);
    assert_int_equal(again.len, bytes.len);
    assert_memory_equal(again.data, bytes.data, bytes.len);
    buf_close(&bytes);
    buf_close(&again);
    mem_free(decoded);
}

/* Programs and heaps of other releases know types by these numbers. */
static void numbers_made_of_names_never_change(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        uint32_t number;
    } known[] = {{"account", 693094236u}, {"a", 1678518572u}};
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
        cairn_type type = {known[i].name, 0, 8, 0, NULL};
        assert_int_equal(cairn_type_number(&type), known[i].number);
    }
    cairn_type numbered = {"account", 17, 8, 0, NULL};
    assert_int_equal(cairn_type_number(&numbered), 17);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_heap_reads_what_the_client_encodes),
        cmocka_unit_test(numbers_made_of_names_never_change),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
