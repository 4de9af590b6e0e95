/* driver.c: a CUDA driver that has no GPU but takes any kernel: with it cuDNN compiles graphs for a GPU that
 * is only described, up to the point where they would be run. Its names are the driver's; it builds to
 * libcuda.so.1. */
enum { STUB_LIBRARY = 34 }; /* CUDA_ERROR_STUB_LIBRARY */

static char thing[64];

#define GIVES(name)                                                                                          \
    int name(void **out);                                                                                    \
    int name(void **out) {                                                                                   \
        *out = thing;                                                                                        \
        return 0;                                                                                            \
    }
#define TELLS(name)                                                                                          \
    int name(int *out);                                                                                      \
    int name(int *out) {                                                                                     \
        *out = 0;                                                                                            \
        return 0;                                                                                            \
    }
#define RETURNS(name, value)                                                                                 \
    int name(void);                                                                                          \
    int name(void) { return value; }

GIVES(cuLibraryLoadData)
GIVES(cuLibraryGetKernel)
GIVES(cuLibraryGetModule)
GIVES(cuKernelGetFunction)
GIVES(cuModuleLoadData)
GIVES(cuModuleGetFunction)
TELLS(cuKernelGetAttribute)
TELLS(cuFuncGetAttribute)
RETURNS(cuKernelSetAttribute, 0)
RETURNS(cuFuncSetAttribute, 0)
RETURNS(cuLibraryUnload, 0)
RETURNS(cuModuleUnload, 0)
RETURNS(cuGetErrorName, STUB_LIBRARY)
RETURNS(cuGetErrorString, STUB_LIBRARY)
RETURNS(cuCtxGetCurrent, STUB_LIBRARY)
RETURNS(cuCtxGetLimit, STUB_LIBRARY)
RETURNS(cuCtxPopCurrent, STUB_LIBRARY)
RETURNS(cuCtxPushCurrent, STUB_LIBRARY)
RETURNS(cuStreamGetCtx, STUB_LIBRARY)
RETURNS(cuDriverGetVersion, STUB_LIBRARY)
RETURNS(cuLinkCreate, STUB_LIBRARY)
RETURNS(cuLinkAddData, STUB_LIBRARY)
RETURNS(cuLinkComplete, STUB_LIBRARY)
RETURNS(cuLinkDestroy, STUB_LIBRARY)
RETURNS(cuLaunchKernel, STUB_LIBRARY)
RETURNS(cuLaunchKernelEx, STUB_LIBRARY)
RETURNS(cuLaunchCooperativeKernel, STUB_LIBRARY)
RETURNS(cuDeviceGetCount, STUB_LIBRARY)
RETURNS(cuDeviceGet, STUB_LIBRARY)
RETURNS(cuLibraryLoadFromFile, STUB_LIBRARY)
RETURNS(cuOccupancyMaxPotentialClusterSize, STUB_LIBRARY)
