# Lets the modal package learn its cluster, as Modal's own runner does before a clustered
# function, then runs the script as python3 itself would.
import os, runpy, sys
import modal
from modal._cluster import initialize_clustered_function

initialize_clustered_function(modal.Client.from_env(), os.environ["MODAL_TASK_ID"])
sys.argv = sys.argv[1:]
sys.path[0] = os.path.dirname(os.path.abspath(sys.argv[0]))
runpy.run_path(sys.argv[0], run_name="__main__")
