# >>> directives
#SBATCH --job-name="50% done"
#SBATCH --output="/shared/runs/50%% done/slurm/train-%j.log"
#SBATCH --open-mode="append"
#SBATCH --chdir="/home/me"
#SBATCH --ntasks-per-node="1"
#SBATCH --nodes="2"
#SBATCH --requeue
#SBATCH --gres="gpu:h100:8"
#SBATCH --cpus-per-task="64"
#SBATCH --mem="900G"
#SBATCH --signal="B:USR1@300"
#SBATCH --partition="gpu"
#SBATCH --account="my project"
#SBATCH --time="1-00:00:00"
#SBATCH --mail-type="END"
#SBATCH --exclusive
# <<< directives

# >>> values
RUN_DIR='/shared/runs/50% done'
CPUS=64
MAX_RESTARTS=3
HOST_PYTHON=(/shared/venv/bin/python)
PYTHON=(/shared/venv/bin/python)
SRUN_OPTIONS=()
SETUP=('module load cuda' 'source /shared/venv/bin/activate')
gemfit_export_env() {
:
export NCCL_SOCKET_IFNAME=ib0 || return
export NOTE='it'"'"'s $HOME' || return
}
