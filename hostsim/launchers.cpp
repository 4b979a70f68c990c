// What launchers compiled with -fsanitize=thread call, which neither build watches: their own atomics, virtual tables.
extern "C" {

void __tsan_vptr_update(void**, void*) {}
void __tsan_vptr_read(void**) {}

unsigned char __tsan_atomic8_load(const volatile unsigned char* memory, int) {
    return __atomic_load_n(memory, __ATOMIC_SEQ_CST);
}
void __tsan_atomic8_store(volatile unsigned char* memory, unsigned char value, int) {
    __atomic_store_n(memory, value, __ATOMIC_SEQ_CST);
}
unsigned long __tsan_atomic64_fetch_add(volatile unsigned long* memory, unsigned long value, int) {
    return __atomic_fetch_add(memory, value, __ATOMIC_SEQ_CST);
}
}
