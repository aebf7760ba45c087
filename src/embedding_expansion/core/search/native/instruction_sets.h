/* The instruction sets that a library is compiled for, and which of them is in use. Shared by the libraries of this
   package: each names its functions FN(name), for the TYPE and the SET that it is compiling, marks them with TARGET, and
   calls the one in use by CHOOSE(name, type, arguments...). */

#include <stdint.h>

#if defined(__GNUC__) || defined(__clang__)
#define INLINE static inline __attribute__((always_inline))
#else
#define INLINE static inline
#endif

#define PASTE_(name, type, set) name##_##type##_##set
#define PASTE(name, type, set) PASTE_(name, type, set)
#define FN(name) PASTE(name, TYPE, SET)

/* Exports a constant that the Python code has as well, which compares the two when it loads the library. */
#define EXPORT_CONSTANT(name) const double constant_##name = name;

/* What `instruction_set`, below, asks the processor for. */
#define TARGET_plain
#define TARGET_avx2 __attribute__((target("avx2,fma")))
#define TARGET_avx512 __attribute__((target("avx512f,avx512dq,avx512vl,avx512bw,avx2,fma")))
#define TARGET_OF_(set) TARGET_##set
#define TARGET_OF(set) TARGET_OF_(set)
#define TARGET TARGET_OF(SET)

#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
#define SEVERAL_SETS
#endif

#define INSTRUCTION_SETS 3

static int32_t highest_set = INSTRUCTION_SETS - 1;

/* Limits the instruction set; to be called once, before anything else. */
void use_at_most(int32_t set) { highest_set = set; }

EXPORT_CONSTANT(INSTRUCTION_SETS)

/* 0: plain, 1: AVX2 and FMA, 2: AVX-512. */
int32_t instruction_set(void) {
#ifdef SEVERAL_SETS
  __builtin_cpu_init();
  if (highest_set >= 2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw"))
    return 2;
  if (highest_set >= 1 && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return 1;
#endif
  return 0;
}

#ifdef SEVERAL_SETS
#define CHOOSE(name, type, ...)                                                    \
  switch (instruction_set()) {                                                     \
    case 2: return PASTE(name, type, avx512)(__VA_ARGS__);                         \
    case 1: return PASTE(name, type, avx2)(__VA_ARGS__);                           \
    default: return PASTE(name, type, plain)(__VA_ARGS__);                         \
  }
#else
#define CHOOSE(name, type, ...) return PASTE(name, type, plain)(__VA_ARGS__);
#endif
