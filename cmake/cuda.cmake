# The kernels compiled by nvcc: the library pyramid::kernels, the Python module _cuda, the package for find_package.
include(cmake/architectures.cmake)
if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES)
    check_language(CUDA)
    default_architectures(archs ${CMAKE_CUDA_COMPILER})
    set(CMAKE_CUDA_ARCHITECTURES "${archs}" CACHE STRING "Architectures to compile for")
endif()
enable_language(CUDA)
find_package(CUDAToolkit 12.5 REQUIRED)

add_library(kernels STATIC ${sources})
add_library(pyramid::kernels ALIAS kernels)
set_target_properties(kernels PROPERTIES
    OUTPUT_NAME pyramid_kernels
    CUDA_STANDARD 20
    CUDA_STANDARD_REQUIRED ON
    CUDA_EXTENSIONS OFF
    CUDA_VISIBILITY_PRESET hidden
    CUDA_RUNTIME_LIBRARY Static
)
list(JOIN CMAKE_CUDA_ARCHITECTURES " " archs)
target_compile_definitions(kernels PRIVATE "PK_CUDA_ARCHS=\"${archs}\"")
target_include_directories(kernels PUBLIC
    $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}/csrc> $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}/pyramid_kernels>
)
target_link_libraries(kernels PUBLIC CUDA::cudart_static)
if(PK_PYTHON)
    add_native(_cuda kernels)
endif()

include(CMakePackageConfigHelpers)
set(package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/pyramid_kernels)
install(TARGETS kernels EXPORT pyramid_kernelsTargets)
install(EXPORT pyramid_kernelsTargets NAMESPACE pyramid:: DESTINATION ${package_dir})
write_basic_package_version_file(${CMAKE_CURRENT_BINARY_DIR}/pyramid_kernelsConfigVersion.cmake
    COMPATIBILITY SameMinorVersion)
install(FILES cmake/pyramid_kernelsConfig.cmake ${CMAKE_CURRENT_BINARY_DIR}/pyramid_kernelsConfigVersion.cmake
    DESTINATION ${package_dir})
# Launchers' headers are free of CUDA; the .cuh stay behind.
install(DIRECTORY csrc/ DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/pyramid_kernels FILES_MATCHING PATTERN "*.h"
    PATTERN ptx EXCLUDE)
install(FILES LICENSE DESTINATION ${CMAKE_INSTALL_DOCDIR})
