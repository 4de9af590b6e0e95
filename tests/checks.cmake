# The checks of the whole tree, as tests beside the others. Included last, when every test has its name.

# Where ranks are threads the test is labelled "ranks": those are what the thread sanitizer runs.
foreach(source ${MF_TESTS})
  get_filename_component(name ${source} NAME_WE)
  file(STRINGS ${source} starts_threads REGEX "mf_launch|mf_worker|parity_check|checkpoint_run_go" LIMIT_COUNT 1)
  if(starts_threads)
    set_property(TEST ${name} APPEND PROPERTY LABELS ranks)
  endif()
endforeach()

# A sanitizer's build folder runs its tests only: no checks within checks.
if(MESHFOLD_SANITIZE)
  return()
endif()

function(mf_check name)
  add_test(NAME ${name} COMMAND bash ${CMAKE_SOURCE_DIR}/scripts/${ARGN})
  set_tests_properties(${name} PROPERTIES SKIP_RETURN_CODE 77 LABELS check TIMEOUT 1500)
endfunction()

mf_check(check_format check-format.sh)
mf_check(check_layers check-layers.sh)
mf_check(check_layers_finds_breaches check-layers.sh --self-test)
mf_check(sanitize_address check-sanitizer.sh asan)
mf_check(sanitize_thread check-sanitizer.sh tsan)
# They build with all cores.
set_tests_properties(sanitize_address sanitize_thread PROPERTIES RUN_SERIAL TRUE)
