# PCOW_SANITIZE=address;undefined or thread (see CMakePresets.json).
set(PCOW_SANITIZE
    ""
    CACHE STRING "Sanitizers to build with, separated by ';'")
if(PCOW_SANITIZE)
  list(JOIN PCOW_SANITIZE "," sanitizers)
  add_compile_options(-fsanitize=${sanitizers} -fno-omit-frame-pointer
                      -fno-sanitize-recover=all)
  add_link_options(-fsanitize=${sanitizers})
endif()
