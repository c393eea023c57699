# Warnings are errors; targets of this project link pcow_warnings.
add_library(pcow_warnings INTERFACE)
target_compile_options(
  pcow_warnings
  INTERFACE -Wall
            -Wextra
            -Wpedantic
            -Wshadow
            -Wconversion
            -Wsign-conversion
            $<$<COMPILE_LANGUAGE:CXX>:-Wnon-virtual-dtor>
            $<$<COMPILE_LANGUAGE:CXX>:-Woverloaded-virtual>
            -Wundef
            $<$<COMPILE_LANG_AND_ID:CXX,Clang>:-Wthread-safety>
            -Werror)
