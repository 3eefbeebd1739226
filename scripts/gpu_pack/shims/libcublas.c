/* A libcublas.so.12 that passes its calls on to libcublas.so.13.

LMDeploy's native module is built for CUDA 12 and calls six functions of cuBLAS, which CUDA 13 has under the
same names with the same arguments. Where torch is a CUDA 13 build, this replaces a library of 700 MB. Each
function is a jump: the arguments stay where the caller put them, so their types need not be known here. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>

#define FUNCTIONS(F) \
    F(cublasCreate_v2) F(cublasDestroy_v2) F(cublasGemmEx) \
    F(cublasGetMathMode) F(cublasSetStream_v2) F(cublasSetWorkspace_v2)

static void missing(void)
{
    fprintf(stderr, "cuBLAS of CUDA 13 (libcublas.so.13) was not found; torch for CUDA 13 brings it.\n");
    abort();
}

#define JUMP(name) \
    __attribute__((visibility("hidden"))) void *forward_##name = (void *)missing; \
    __asm__(".text\n.globl " #name "\n.type " #name ", @function\n" #name ":\n" \
            "    jmp *forward_" #name "(%rip)\n.size " #name ", .-" #name "\n");

FUNCTIONS(JUMP)

#define FIND(name) \
    if ((found = dlsym(cublas, #name))) forward_##name = found;

__attribute__((constructor)) static void find_functions(void)
{
    void *cublas = dlopen("libcublas.so.13", RTLD_LAZY | RTLD_LOCAL), *found;
    if (!cublas)
        return;
    FUNCTIONS(FIND)
}
