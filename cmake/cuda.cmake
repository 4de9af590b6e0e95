# What is built for CUDA: a module beside the program, which loads it when a GPU is asked for. Its sources are C for
# the host's part and .cu for kernels; they call the program's own functions. What they share with the dry device (sizes
# alone) is in both: of an archive a program has only what it uses itself.
file(GLOB MF_CUDA_SOURCES CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/src/device/cuda/*.c
     ${CMAKE_SOURCE_DIR}/src/device/cuda/*.cu ${CMAKE_SOURCE_DIR}/src/device/cuda_*.c)
list(FILTER MF_CUDA_SOURCES EXCLUDE REGEX "/no_nccl.c$") # it stands in for nccl.c

if(MESHFOLD_CUDA STREQUAL "AUTO")
  include(CheckLanguage)
  check_language(CUDA)
elseif(MESHFOLD_CUDA)
  set(CMAKE_CUDA_COMPILER nvcc CACHE STRING "")
endif()
if(NOT MESHFOLD_CUDA OR NOT CMAKE_CUDA_COMPILER)
  return()
endif()

if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES)
  set(CMAKE_CUDA_ARCHITECTURES 80-real 90a-real 90-virtual) # A100; H100 and H200; whatever comes after, from PTX
endif()
set(CMAKE_CUDA_STANDARD 17)
enable_language(CUDA)
find_package(CUDAToolkit REQUIRED)

find_path(NCCL_INCLUDE nccl.h HINTS ${CUDAToolkit_INCLUDE_DIRS})
find_library(NCCL_LIBRARY nccl HINTS ${CUDAToolkit_LIBRARY_DIR})
set(module_sources ${MF_CUDA_SOURCES})
if(NOT NCCL_INCLUDE OR NOT NCCL_LIBRARY)
  list(TRANSFORM module_sources REPLACE "/nccl.c$" "/no_nccl.c")
endif()

add_library(meshfold_cuda MODULE ${module_sources})
target_include_directories(meshfold_cuda PRIVATE include src)
target_compile_definitions(meshfold_cuda PRIVATE _GNU_SOURCE)
target_compile_options(meshfold_cuda PRIVATE
  $<$<COMPILE_LANGUAGE:C>:-Wall -Wextra -Wpedantic -Wshadow -Wconversion $<$<BOOL:${MESHFOLD_WERROR}>:-Werror>>
  $<$<COMPILE_LANGUAGE:CUDA>:-Xcompiler=-Wall,-Wextra $<$<BOOL:${MESHFOLD_WERROR}>:--Werror=all-warnings>>)
find_path(CUDNN_INCLUDE cudnn.h HINTS ${CUDAToolkit_INCLUDE_DIRS} REQUIRED)
find_library(CUDNN_LIBRARY cudnn HINTS ${CUDAToolkit_LIBRARY_DIR} ${CUDAToolkit_LIBRARY_ROOT}/lib REQUIRED)
target_include_directories(meshfold_cuda SYSTEM PRIVATE ${CUDNN_INCLUDE})
target_link_libraries(meshfold_cuda PRIVATE CUDA::cudart_static CUDA::cublasLt ${CUDNN_LIBRARY})
if(NCCL_INCLUDE AND NCCL_LIBRARY)
  target_include_directories(meshfold_cuda SYSTEM PRIVATE ${NCCL_INCLUDE})
  target_link_libraries(meshfold_cuda PRIVATE ${NCCL_LIBRARY})
endif()
