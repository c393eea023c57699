# PCOW_SANITIZE=address;undefined or thread (see CMakePresets.json).
set(PCOW_SANITIZE
    ""
    CACHE STRING "Sanitizers to build with, separated by ';'")
if(PCOW_SANITIZE)
  # Compiled in half the time, with line numbers in what a sanitizer reports; the release build tests
  # what the optimizer makes of the code.
  set(CMAKE_C_FLAGS_RELWITHDEBINFO "-O1 -g1 -DNDEBUG")
  set(CMAKE_CXX_FLAGS_RELWITHDEBINFO "-O1 -g1 -DNDEBUG")
  list(JOIN PCOW_SANITIZE "," sanitizers)
  add_compile_options(-fsanitize=${sanitizers} -fno-omit-frame-pointer
                      -fno-sanitize-recover=all)
  add_link_options(-fsanitize=${sanitizers})
endif()
