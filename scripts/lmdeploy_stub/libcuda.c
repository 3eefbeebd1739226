/* A libcuda.so.1 for machines without an NVIDIA driver.

LMDeploy's native module is linked against the driver's library and cannot be imported without it. Here
every function answers CUDA_ERROR_NO_DEVICE, so it is imported and finds no GPU. functions.h holds one
FUNCTION(name) for each name the module asks for; scripts/lmdeploy-env writes it. */

enum { CUDA_ERROR_NO_DEVICE = 100 };

#define FUNCTION(name) \
    int name(void) { return CUDA_ERROR_NO_DEVICE; }

#include "functions.h"

/* What the server itself asks, to find out whether there is a GPU. */
FUNCTION(cuInit)
FUNCTION(cuDeviceGetCount)
