# default_architectures(<variable> <nvcc>): what to compile for where nobody says it, without what that nvcc does not know.
# `cmake -DNVCC=<nvcc> -P cmake/architectures.cmake` prints it: setup.py asks so.
function(default_architectures variable nvcc)
    execute_process(COMMAND ${nvcc} --list-gpu-code OUTPUT_VARIABLE known ERROR_QUIET)
    foreach(arch 80-real 90a-real 100-real 120)
        string(REGEX MATCH "^[0-9]+" number ${arch})
        if(NOT known OR known MATCHES "sm_${number}[^0-9]")  # what cannot be asked is left to fail by itself
            list(APPEND able ${arch})
        else()
            list(APPEND left_out ${arch})
        endif()
    endforeach()
    if(left_out)
        list(JOIN left_out ", " left_out)
        message(NOTICE "pyramid_kernels: ${nvcc} is too old for ${left_out}: left out")
    endif()
    set(${variable} "${able}" PARENT_SCOPE)
endfunction()

if(CMAKE_SCRIPT_MODE_FILE)
    default_architectures(archs ${NVCC})
    execute_process(COMMAND ${CMAKE_COMMAND} -E echo "${archs}")
endif()
