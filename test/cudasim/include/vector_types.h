/* Stand-in for the toolkit's header: small vectors, aligned as on the device. C and C++. */
#ifndef CUDASIM_VECTOR_TYPES_H
#define CUDASIM_VECTOR_TYPES_H

#ifdef __cplusplus
#define CUDASIM_ALIGNED(size) alignas(size)
#else
#define CUDASIM_ALIGNED(size) _Alignas(size)
#endif

/* The alignment stands at the first member: there C and C++ write it alike. */
#define CUDASIM_VECTORS(name, element)                                                                                 \
    typedef struct name##1 {                                                                                           \
        element x;                                                                                                     \
    }                                                                                                                  \
    name##1;                                                                                                           \
    typedef struct name##2 {                                                                                           \
        CUDASIM_ALIGNED(2 * sizeof(element)) element x;                                                                \
        element y;                                                                                                     \
    }                                                                                                                  \
    name##2;                                                                                                           \
    typedef struct name##3 {                                                                                           \
        element x, y, z;                                                                                               \
    }                                                                                                                  \
    name##3;                                                                                                           \
    typedef struct name##4 {                                                                                           \
        CUDASIM_ALIGNED(4 * sizeof(element) > 16 ? 16 : 4 * sizeof(element)) element x;                                \
        element y, z, w;                                                                                               \
    }                                                                                                                  \
    name##4;

CUDASIM_VECTORS(char, signed char)
CUDASIM_VECTORS(uchar, unsigned char)
CUDASIM_VECTORS(short, short)
CUDASIM_VECTORS(ushort, unsigned short)
CUDASIM_VECTORS(int, int)
CUDASIM_VECTORS(uint, unsigned int)
CUDASIM_VECTORS(longlong, long long)
CUDASIM_VECTORS(ulonglong, unsigned long long)
CUDASIM_VECTORS(float, float)
CUDASIM_VECTORS(double, double)

typedef struct dim3 {
    unsigned int x, y, z;
#ifdef __cplusplus
    constexpr dim3(unsigned int x_ = 1, unsigned int y_ = 1, unsigned int z_ = 1) : x(x_), y(y_), z(z_) {}
    constexpr dim3(uint3 size) : x(size.x), y(size.y), z(size.z) {}
#endif
} dim3;

#ifdef __cplusplus
#define CUDASIM_MAKE_VECTORS(name, element)                                                                            \
    static inline name##1 make_##name##1(element x) { return {x}; }                                                    \
    static inline name##2 make_##name##2(element x, element y) { return {x, y}; }                                      \
    static inline name##3 make_##name##3(element x, element y, element z) { return {x, y, z}; }                        \
    static inline name##4 make_##name##4(element x, element y, element z, element w) { return {x, y, z, w}; }

CUDASIM_MAKE_VECTORS(char, signed char)
CUDASIM_MAKE_VECTORS(uchar, unsigned char)
CUDASIM_MAKE_VECTORS(short, short)
CUDASIM_MAKE_VECTORS(ushort, unsigned short)
CUDASIM_MAKE_VECTORS(int, int)
CUDASIM_MAKE_VECTORS(uint, unsigned int)
CUDASIM_MAKE_VECTORS(longlong, long long)
CUDASIM_MAKE_VECTORS(ulonglong, unsigned long long)
CUDASIM_MAKE_VECTORS(float, float)
CUDASIM_MAKE_VECTORS(double, double)
#undef CUDASIM_MAKE_VECTORS
#endif

#undef CUDASIM_VECTORS
#undef CUDASIM_ALIGNED

#endif
