"""Reads Octavia's jobboard, the list of the flows that workers carry on.

``board``         a board and its jobs
``chosen``        the board that Octavia's files name
``in_redis``      a board in Redis
``in_zookeeper``  a board in ZooKeeper
``in_etcd``       a board in etcd

With ``[task_flow] jobboard_enabled``, a worker posts each flow as a job. Any worker claims the job, and removes it when the
flow has ended. So a flow carries on if and only if its job is on the board.

stackmend does not read through taskflow, because taskflow deletes a job that it cannot decode (``_fetch_jobs`` in
``taskflow/jobs/backends/impl_redis.py``, ``_process_incoming_job`` in ``impl_etcd.py``) and creates the path in ZooKeeper.

An empty board proves something only if it is Octavia's board. So the board must show that a job was posted before.

Sources: ``octavia/common/base_taskflow.py`` (run_poster), ``octavia/controller/worker/v2/taskflow_jobboard_driver.py``,
``octavia/controller/worker/v2/controller_worker.py``.
"""
