# CUDA part of the build, included by CMakeLists.txt once a CUDA compiler is known. Sets cuda_archs.
#
# The CUDA *language* with a static runtime is all that is used: find_package(CUDAToolkit) fails on the compiler wheels
# of PyPI, which lack the unversioned libcudart.so, and the module must link nothing of CUDA anyway.
set(CMAKE_CUDA_ARCHITECTURES ${SSLSPEC_CUDA_ARCHS})
set(CMAKE_CUDA_RUNTIME_LIBRARY Static)
set(CMAKE_CUDA_STANDARD 17)
set(CMAKE_CUDA_STANDARD_REQUIRED ON)
enable_language(CUDA)
set(cuda_archs ${SSLSPEC_CUDA_ARCHS})

set(hopper_sources ${cuda_sources})
list(FILTER hopper_sources INCLUDE REGEX "/hopper/")
list(FILTER cuda_sources EXCLUDE REGEX "/hopper/")
file(GLOB cuda_host_sources CONFIGURE_DEPENDS csrc/*/cuda/*.cpp)
target_sources(_C PRIVATE ${cuda_host_sources})
target_compile_definitions(_C PRIVATE SSLSPEC_WITH_CUDA)
set_target_properties(_C PROPERTIES CUDA_ARCHITECTURES "${SSLSPEC_CUDA_ARCHS}")  # the module was made before CUDA was on

function(sslspec_add_cuda name archs)
  add_library(${name} OBJECT ${ARGN})
  set_target_properties(${name} PROPERTIES CUDA_ARCHITECTURES "${archs}" CUDA_RUNTIME_LIBRARY Static)
  target_include_directories(${name} PRIVATE csrc)
  list(JOIN cuda_archs "," arch_names)
  target_compile_definitions(${name} PRIVATE SSLSPEC_CUDA_ARCHS="${arch_names}")
  # Every approximate intrinsic is written out where its error has been looked at: no --use_fast_math.
  target_compile_options(${name} PRIVATE --expt-relaxed-constexpr -lineinfo -Xcompiler=-fvisibility=hidden)
  target_link_libraries(_C PRIVATE ${name})
endfunction()
sslspec_add_cuda(sslspec_cuda "${SSLSPEC_CUDA_ARCHS}" ${cuda_sources})

# Hopper kernels from CUTLASS (header-only): SSLSPEC_CUTLASS_DIR, else the nvidia-cutlass wheel of this interpreter.
# sm_90a code runs on compute capability 9.0 only, so it is built when a 90 architecture (or "native") is asked for.
# SSLSPEC_CUTLASS=OFF in the environment leaves them out.
if(hopper_sources AND SSLSPEC_CUDA_ARCHS MATCHES "90|native|all" AND NOT "$ENV{SSLSPEC_CUTLASS}" STREQUAL "OFF")
  set(SSLSPEC_CUTLASS_DIR "$ENV{SSLSPEC_CUTLASS_DIR}" CACHE PATH "Directory with CUTLASS's include/cutlass/cutlass.h")
  execute_process(
    COMMAND ${Python_EXECUTABLE} -c "import cutlass_library as c; print(list(c.__path__)[0])"
    OUTPUT_VARIABLE cutlass_wheel OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
  find_path(cutlass_include cutlass/cutlass.h NO_DEFAULT_PATH NO_CACHE
            PATHS ${SSLSPEC_CUTLASS_DIR}/include ${SSLSPEC_CUTLASS_DIR} ${cutlass_wheel}/source/include)
  if(cutlass_include)
    sslspec_add_cuda(sslspec_cuda_sm90a 90a-real ${hopper_sources})
    target_include_directories(sslspec_cuda_sm90a SYSTEM PRIVATE ${cutlass_include})
    target_compile_definitions(sslspec_cuda PRIVATE SSLSPEC_WITH_SM90A)
    list(APPEND cuda_archs 90a-real)
  else()
    message(WARNING "sslspec_fast: no CUTLASS headers (SSLSPEC_CUTLASS_DIR, or pip install --no-deps nvidia-cutlass): "
                    "wide rows use the portable kernels on Hopper too")
  endif()
endif()
message(STATUS "sslspec_fast: CUDA kernels for ${cuda_archs}")
