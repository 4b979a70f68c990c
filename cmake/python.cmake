# add_native(<name> <library>): the Python module <name>, csrc/bindings/ over the launchers of <library>.
# Without pybind11 it only says so: the libraries and their tests do not need Python.
find_package(Python COMPONENTS Interpreter Development.Module)
if(Python_FOUND AND NOT pybind11_DIR)
    execute_process(
        COMMAND ${Python_EXECUTABLE} -m pybind11 --cmakedir
        OUTPUT_VARIABLE pybind11_DIR OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET
    )
endif()
if(Python_FOUND)
    find_package(pybind11 2.13 CONFIG QUIET)
endif()
if(NOT pybind11_FOUND)
    message(STATUS "No pybind11 2.13 or newer for ${Python_EXECUTABLE}: leaving out the Python modules")
endif()

file(GLOB bindings CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/csrc/bindings/*.cpp)
function(add_native name library)
    if(pybind11_FOUND)
        pybind11_add_module(${name} MODULE NO_EXTRAS ${ARGN} ${bindings})
        target_compile_definitions(${name} PRIVATE PK_MODULE_NAME=${name})
        target_link_libraries(${name} PRIVATE ${library})
    endif()
endfunction()
