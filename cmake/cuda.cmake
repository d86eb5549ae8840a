# The CUDA kernels: a shared library of their own with a C interface (csrc/core/cuda_api.h), which _core opens at run time. It
# links the runtime statically and opens cuBLASLt itself, so that the build needs nvcc and nothing else.
set(LLMCORE_CUDA AUTO CACHE STRING "CUDA kernels: AUTO (where nvcc is found), ON, OFF")
set(LLMCORE_CUDA_TARGETS "80-real;89-real;90a-real;90-virtual" CACHE STRING
  "Architectures of the CUDA kernels; the last is for the driver to compile on newer ones")

if(LLMCORE_CUDA)
  include(CheckLanguage)
  check_language(CUDA)
  if(CMAKE_CUDA_COMPILER)
    set(CMAKE_CUDA_ARCHITECTURES ${LLMCORE_CUDA_TARGETS})
    enable_language(CUDA)
    file(GLOB LLMCORE_CUDA_SOURCES CONFIGURE_DEPENDS cuda/*.cu)
    add_library(llmcore_cuda SHARED ${LLMCORE_CUDA_SOURCES})
    set_target_properties(llmcore_cuda PROPERTIES CUDA_STANDARD 17 CUDA_STANDARD_REQUIRED ON CUDA_VISIBILITY_PRESET hidden
      CUDA_RUNTIME_LIBRARY Static LIBRARY_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR})
    target_include_directories(llmcore_cuda PRIVATE ${CMAKE_CURRENT_SOURCE_DIR})
    # -v: registers and spills of every kernel, for tools/ptxas_report.py; the compiler's host warnings as for the core.
    target_compile_options(llmcore_cuda PRIVATE -Xptxas=-v --compress-mode=size -Xcompiler=-Wall,-Wextra
      $<$<BOOL:${LLMCORE_WERROR}>:-Xcompiler=-Werror -Werror=all-warnings>)
    target_link_options(llmcore_cuda PRIVATE -Wl,--exclude-libs,ALL)
    target_link_libraries(llmcore_cuda PRIVATE ${CMAKE_DL_LIBS} Threads::Threads)
    install(TARGETS llmcore_cuda LIBRARY DESTINATION llmcore)
  elseif(LLMCORE_CUDA STREQUAL "AUTO")
    message(STATUS "No nvcc: without CUDA kernels")
  else()
    message(FATAL_ERROR "LLMCORE_CUDA=${LLMCORE_CUDA} needs nvcc: put it on the PATH or name it with CUDACXX")
  endif()
endif()
