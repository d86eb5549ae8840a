# The instruction sets that the kernels are compiled for, and their flags. One object library per ISA; csrc/cpu/isas.cpp
# picks a table at run time, so every flag here must be gated by its own cpuid check there.
set(LLMCORE_FLAGS_baseline "")
set(LLMCORE_FLAGS_avx2 -mavx2 -mfma -mf16c -mprefer-vector-width=256)
set(LLMCORE_FLAGS_avxvnni ${LLMCORE_FLAGS_avx2} -mavxvnni)
set(LLMCORE_FLAGS_avx512 ${LLMCORE_FLAGS_avx2} -mavx512f -mavx512bw -mavx512vl -mavx512dq -mprefer-vector-width=512)
set(LLMCORE_FLAGS_avx512bf16 ${LLMCORE_FLAGS_avx512} -mavx512bf16 -mavx512vnni)
set(LLMCORE_FLAGS_amx ${LLMCORE_FLAGS_avx512bf16} -mamx-tile -mamx-bf16 -mamx-int8)

function(llmcore_add_isa_kernels)
  include(CheckCXXCompilerFlag)
  set(isas ${LLMCORE_ISAS})
  if(NOT isas)
    set(isas baseline)
    if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
      list(APPEND isas avx2 avxvnni avx512 avx512bf16 amx)
    endif()
  endif()
  if("avxvnni" IN_LIST isas AND NOT "avx2" IN_LIST isas)
    list(PREPEND isas avx2) # whose kernels it borrows
  endif()
  # One source per family of kernels: a change to one family recompiles no other.
  file(GLOB_RECURSE sources CONFIGURE_DEPENDS cpu/*.cpp)
  list(FILTER sources EXCLUDE REGEX "/isas\\.cpp$")
  set(sources_avxvnni ${sources})
  list(FILTER sources_avxvnni INCLUDE REGEX "cpu/(families|machine|quantized)\\.cpp$")
  set(objects "")
  set(definitions "")
  foreach(isa IN LISTS isas)
    string(REPLACE ";" " " flags "${LLMCORE_FLAGS_${isa}}")
    string(TOUPPER ${isa} ISA)
    set(CMAKE_REQUIRED_QUIET ON)
    if(flags)
      check_cxx_compiler_flag("${flags}" LLMCORE_HAVE_${ISA})
    else()
      set(LLMCORE_HAVE_${ISA} TRUE)
    endif()
    if(LLMCORE_HAVE_${ISA})
      if(DEFINED sources_${isa})
        add_library(kernels_${isa} OBJECT ${sources_${isa}})
      else()
        add_library(kernels_${isa} OBJECT ${sources})
      endif()
      # -fno-math-errno lets sqrt inline; contraction suits the FMA kernels and is the same for every thread count. GCC
      # 12's _mm512_undefined_ps trips its own -Wuninitialized and -Wmaybe-uninitialized (GCC bug 105593).
      target_compile_options(kernels_${isa} PRIVATE ${LLMCORE_FLAGS_${isa}} -O3 -fno-math-errno -fno-trapping-math -Wno-uninitialized
        -fno-exceptions -fno-rtti -fno-threadsafe-statics -Wno-maybe-uninitialized
        $<$<CXX_COMPILER_ID:GNU>:-fpch-preprocess>) # for ccache
      target_precompile_headers(kernels_${isa} PRIVATE cpu/lanes.h) # else every family reads the compiler's intrinsics again
      target_compile_definitions(kernels_${isa} PRIVATE LLMCORE_ISA=${isa} LLMCORE_ISA_${ISA}=1)
      target_link_libraries(kernels_${isa} PRIVATE llmcore_options)
      list(APPEND objects $<TARGET_OBJECTS:kernels_${isa}>)
      list(APPEND definitions LLMCORE_WITH_${ISA}=1)
    endif()
  endforeach()
  set(LLMCORE_ISA_OBJECTS ${objects} PARENT_SCOPE)
  set(LLMCORE_ISA_DEFINITIONS ${definitions} PARENT_SCOPE)
endfunction()
